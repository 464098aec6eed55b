"""What the suite needs of a bus, whichever it is."""

from typing import Protocol

from msgspec import Struct

from runnerd import Result

TENANT = "acme"
CALM_S = 60.0


class Away(Exception):
    """The broker did not take it, or nobody answered; it may have come all the same."""


class Answer(Struct, frozen=True):
    """A result that came to where answers go."""

    result: Result
    again: bool
    """To a later submission of the job."""


class ChaosBus(Protocol):
    """A broker that can be killed, with a client that submits jobs and collects all answers."""

    kind: str
    port: int
    answers: list[Answer]
    events: int
    """Messages of output that came."""

    def flags(self, port: int) -> tuple[str, ...]:
        """Settings of a daemon that finds the broker at this port."""
        ...

    async def start(self) -> None: ...

    async def kill(self) -> None: ...

    async def submit(self, job: str, code: str, *, again: bool, streams: bool) -> None:
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
