"""What the suite needs of a bus, whichever it is."""

from typing import Literal, Protocol

from msgspec import Struct

from runnerd import Result

TENANT = "acme"
CALM_S = 240.0
Sending = Literal["first", "again", "other"]
"""A job's first submission, a later one of the same job, and one of another job under its id."""


class Away(Exception):
    """The broker did not take it, or nobody answered; it may have come all the same."""


class Answer(Struct, frozen=True):
    """A result that came to where answers go."""

    result: Result
    sending: Sending
    to: str
    """Which submission it answers."""
    at: float
    """When it came, on the clock that all processes share."""


class ChaosBus(Protocol):
    """A broker that can be killed, with a client that submits jobs and collects all answers."""

    kind: str
    port: int
    answers: list[Answer]
    events: int
    """Messages of output that came."""
    sent: set[str]
    """Submissions that the broker took."""
    sure: bool
    """Whether each of them is answered, even where the broker was killed."""

    def flags(self, port: int) -> tuple[str, ...]:
        """Settings of a daemon that finds the broker at this port."""
        ...

    async def start(self) -> None: ...

    async def kill(self) -> None: ...

    async def submit(self, job: str, code: str, sending: Sending, *, streams: bool = False) -> None:
        """Return when the broker has it. Raises Away."""
        ...

    async def cancel(self, job: str) -> Result | None:
        """The job's result now, None where nobody has seen the job. Raises Away."""
        ...

    async def status(self, job: str) -> Result | str | None:
        """Raises Away."""
        ...

    def slow(self, on: bool) -> None:
        """Whether those who listen read nothing."""
        ...

    async def published(self, jobs: list[str]) -> dict[str, Result]:
        """The results that the bus itself keeps; none where it keeps none."""
        ...

    async def left(self) -> dict[str, int]:
        """What is in its queues and in hands, by name, where it is more than nothing."""
        ...

    async def letters(self) -> dict[str, str]:
        """Dead letters: job and reason."""
        ...

    async def collected(self) -> None:
        """Return when all answers that came are in `answers`."""
        ...

    async def redelivered(self) -> int:
        """How often messages were delivered beyond the first time."""
        ...
