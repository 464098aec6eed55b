"""For how many messages to ask, and of which consumer. Plain arithmetic, no I/O."""

from collections.abc import Iterable

from msgspec import Struct

from .topology import Consumer


class Feed:
    """A consumer of jobs, and what was asked of it last. One request at a time."""

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer
        self.group = ""
        """The priority group that it wants to be asked for, empty for none."""
        self.waiting = 0
        """Messages that it had left when it gave the last one, as far as it is known."""
        self.left = 0
        """Messages that may still come for the last request."""
        self.number = 0
        """Of the last request."""
        self.idle = False
        """Whether the last request waits for a message that nobody has sent yet."""
        self.heard = 0.0
        """When anything was heard of the last request, on the loop's clock."""
        self.until = 0.0
        """When the next request may be sent, on the loop's clock."""
        self.missing = False
        """Whether the server knows nothing of this consumer."""
        self.failures = 0
        """Requests in a row that it refused."""

    def __repr__(self) -> str:
        return f"<Feed {self.consumer.name}, {self.waiting} waiting, {self.left} of request {self.number} to come>"

    def came(self, waiting: int) -> None:
        """A message came, and so many more wait."""
        self.waiting = waiting
        self.left = max(0, self.left - 1)
        self.failures = 0

    def over(self) -> None:
        """The last request is over, and there was no more."""
        self.waiting = self.left = 0


class Ask(Struct, frozen=True, kw_only=True):
    """A request that is due."""

    feed: Feed
    batch: int
    idle: bool


def asks(feeds: Iterable[Feed], room: int, reserved: int, now: float) -> list[Ask]:
    """The requests that are due where `room` more jobs can be taken; only the first feed may take the last `reserved` of them.

    Where messages are known to wait, exactly as many are asked for as there is room, and no waiting: what is not there is
    known at once. Where none is known, one is waited for. So there come never more than room was for, but one for each
    feed that was idle when others took the room meanwhile; that one is given back.
    """
    feeds = list(feeds)
    spare = room - sum(feed.left for feed in feeds if not feed.idle)
    due = []
    for place, feed in enumerate(feeds):
        mine = spare - (reserved if place else 0)
        if feed.left or mine <= 0 or feed.until > now or feed.missing:
            continue
        batch = min(mine, feed.waiting)
        if batch:
            spare -= batch
        due.append(Ask(feed=feed, batch=batch or 1, idle=not batch))
    return due
