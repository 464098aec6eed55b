"""What a client asks of a bus: one small interface, which each bus has its own way to keep."""

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from ..errors import IngressError
from ..job import Event, Job, Result
from .patience import LanguageInfo


class Lost(IngressError):
    """The connection is gone, or the bus did not say whether it took what was sent: to be sent again."""


class News(Protocol):
    """What comes about one job."""

    async def receive(self, timeout_s: float) -> Event | None:
        """The next event; None where it is better to ask what became of the job: nothing came for so long, or something was lost.

        Raises Saturated where the job was refused for now, RunnerdError where for good, Lost and IngressError.
        """
        ...


class Lane(News, Protocol):
    """The way of one job there, and of its events back."""

    async def send(self) -> None:
        """Send the job, or send it again. Where the bus keeps jobs, it has it then. Raises Saturated and Lost."""
        ...


class Bus(Protocol):
    """A bus with daemons on it."""

    keeps: bool
    """Whether a job that was sent stays there until it has a result, so that one that no daemon knows only waits."""

    def problem(self, job: Job, body: bytes) -> str:
        """Why the bus can't carry the job, empty where it can."""
        ...

    def lane(self, job: Job, body: bytes, *, stream: bool) -> AbstractAsyncContextManager[Lane]:
        """The way for a job; `body` is the job in MessagePack. `stream`: with its events. Raises Lost and IngressError."""
        ...

    def watch(self, tenant: str, job_id: str) -> AbstractAsyncContextManager[News]:
        """What the bus tells of a job that was submitted by anybody. May be nothing: asking has the result all the same."""
        ...

    async def ask(self, tenant: str, job_id: str, verb: str) -> str | Result | None:
        """`status` or `cancel`: the state of a job, its result, or None where nobody knows it. Raises Saturated, Lost, IngressError."""
        ...

    async def feed(self, tenant: str, job_id: str, data: bytes, *, end: bool, timeout_s: float) -> None:
        """Add to the standard input of an interactive job, and wait until its program has room for it.

        Raises Saturated where no daemon says so in time, Conflict where the job has ended, Rejected, OverLimit, Lost, IngressError.
        """
        ...

    async def answer(self, tenant: str, job_id: str, call: str, answer: bytes, *, failed: bool) -> None:
        """Answer a call of a tool, see `Services.answer`.

        Raises Saturated where no daemon says that it has the answer, Conflict where nobody waits for it, and the others as `feed`.
        """
        ...

    async def languages(self) -> tuple[LanguageInfo, ...]:
        """The languages of a daemon, none where they can't be asked for. Raises Saturated where no daemon answers."""
        ...
