"""The pull loop: asks for as many jobs as can be taken, and no more."""

import asyncio
from collections.abc import Callable

from msgspec import Struct
from nats.aio.msg import Msg

from runnerd import Counters, new_id

from ..connection import Connection, Route
from .api import Api
from .asking import Ask, Feed, asks
from .message import Origin, origin
from .setup import Setup

_IDLE_S = 30.0
"""How long a request waits for a message that nobody has sent yet."""
_HEARTBEAT_S = 5.0
_LOST_S = 10.0
"""A request of which nothing was heard for so long is gone."""
_AGAIN_S, _AGAIN_MOST_S = 0.5, 30.0
"""Pause after a request that the server refused; it doubles."""
_NS = 1_000_000_000
_NOBODY = "503"
_HEARD = "100"


class PullBounds(Struct, frozen=True, kw_only=True):
    """How much is asked for."""

    reserved: int
    """Slots that only the first feed may take."""
    make: bool
    """Whether a consumer that is gone is made again."""


class Puller:
    """Asks each consumer in its turn, and passes on what comes."""

    def __init__(
        self,
        connection: Connection,
        api: Api,
        setup: Setup,
        feeds: list[Feed],
        *,
        room: Callable[[], int],
        receive: Callable[[Msg, Origin], None],
        bounds: PullBounds,
        counters: Counters,
    ) -> None:
        self._connection = connection
        self._api = api
        self._setup = setup
        self._feeds = feeds
        self._names = {(feed.consumer.stream, feed.consumer.name): feed for feed in feeds}
        self._room = room
        self._receive = receive
        self._bounds = bounds
        self._counters = counters
        self._inbox = f"_INBOX.rd.{new_id()}"
        self._wake = asyncio.Event()
        self._rest_until = 0.0
        self.asked = 0
        """Requests that were sent."""
        self.warm: Callable[[], bool] = lambda: True
        """Whether a sandbox stands ready, so that other daemons should wait for what comes."""

    def route(self) -> Route:
        """Where messages come to, and what the server says about requests."""
        return Route(subject=f"{self._inbox}.*.*", receive=self.receive)

    def wake(self) -> None:
        """Room may have changed. Costs next to nothing where every consumer has a request that is not over: none is asked twice."""
        if not all(feed.left for feed in self._feeds):
            self._wake.set()

    def reconnected(self) -> None:
        """There is a connection, and its server knows of no request."""
        for feed in self._feeds:
            feed.left, feed.until = 0, 0.0
        self._wake.set()

    def rest(self, pause_s: float) -> None:
        """Ask for nothing for a while."""
        self._rest_until = asyncio.get_running_loop().time() + pause_s

    async def receive(self, msg: Msg) -> None:
        """Take what came on the inbox: a message, or a word about a request."""
        if not msg.reply:
            feed, number = self._request(msg.subject)
            if feed is not None and number == feed.number:
                self._heard(feed, (msg.headers or {}).get("Status", ""), str((msg.headers or {}).get("Description", "")))
            return
        came = origin(msg.reply)
        feed = self._names.get((came.stream, came.consumer)) if came else None
        if came is None or feed is None:
            self._counters.count("refused_unknown", subject=msg.subject)
            return
        feed.came(came.waiting)
        feed.heard = asyncio.get_running_loop().time()
        self._receive(msg, came)
        self._wake.set()

    async def keep(self) -> None:
        """Ask, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            now = loop.time()
            self._forget(now)
            await self._mend()
            for ask in asks(self._feeds, self._room() if now >= self._rest_until else 0, self._bounds.reserved, now):
                await self._ask(ask, now)
            try:
                async with asyncio.timeout_at(self._next(now)):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _ask(self, ask: Ask, now: float) -> None:
        feed = ask.feed
        feed.number += 1
        feed.left, feed.idle, feed.until = ask.batch, ask.idle, 0.0
        request: dict[str, object] = {"batch": ask.batch}
        if ask.idle:
            request |= {"expires": int(_IDLE_S * _NS), "idle_heartbeat": int(_HEARTBEAT_S * _NS)}
        else:
            request["no_wait"] = True
        if feed.group:
            request |= {"group": feed.group, "priority": 0 if self.warm() else 1}
        self.asked += 1
        feed.heard = now
        inbox = f"{self._inbox}.{self._feeds.index(feed)}.{feed.number}"
        if not await self._api.pull(feed.consumer.stream, feed.consumer.name, request, inbox):
            feed.left = 0  # woken when there is a connection
            feed.until = now + _LOST_S

    def _request(self, subject: str) -> tuple[Feed | None, int]:
        """Which request a word from the server is about."""
        place, _, number = subject[len(self._inbox) + 1 :].partition(".")
        if not (place.isdecimal() and number.isdecimal() and int(place) < len(self._feeds)):
            return None, 0
        return self._feeds[int(place)], int(number)

    def _heard(self, feed: Feed, status: str, words: str) -> None:
        now = asyncio.get_running_loop().time()
        feed.heard = now
        if status == _HEARD:
            return
        feed.over()
        if status == _NOBODY or "Consumer Deleted" in words:
            feed.missing = True
            self._counters.count("consumers_gone", consumer=feed.consumer.name, fix="runnerd bus init")
        elif status not in ("404", "408"):
            self._counters.count("pulls_refused", consumer=feed.consumer.name, status=status, words=words)
            self._pause(feed, now)
        self._wake.set()

    def _forget(self, now: float) -> None:
        """Requests of which nothing is heard any more are over."""
        for feed in self._feeds:
            if feed.left and now - feed.heard >= _LOST_S:
                feed.over()

    async def _mend(self) -> None:
        """See whether consumers that were gone are there again."""
        now = asyncio.get_running_loop().time()
        for feed in self._feeds:
            if feed.missing and feed.until <= now:
                found = await self._setup.again(feed.consumer, make=self._bounds.make)
                if found is not None:
                    feed.missing, feed.group = False, found.group(feed.consumer.name)
                self._pause(feed, now)

    def _pause(self, feed: Feed, now: float) -> None:
        feed.until = now + min(_AGAIN_MOST_S, _AGAIN_S * 2**feed.failures)
        feed.failures = min(feed.failures + 1, 16)

    def _next(self, now: float) -> float | None:
        """When to look again though nothing happens."""
        times = [feed.until for feed in self._feeds if feed.until > now]
        times += [feed.heard + _LOST_S for feed in self._feeds if feed.left]
        if self._rest_until > now:
            times.append(self._rest_until)
        return min(times, default=None)
