"""What a durable bus has beside its jobs: dead letters, and what has to be prepared on it. No I/O here."""

from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from msgspec import Struct


class DeadLetter(Struct, frozen=True, kw_only=True):
    """A job that runnerd could not run, kept with the reason."""

    number: str
    """What the bus calls it, `[A-Za-z0-9_-]{1,64}`."""
    tenant: str
    lang: str
    job_id: str
    reason: str
    starts: int
    """How often it was started."""
    died: str
    """When, RFC 3339."""
    address: str
    """Where it was sent: a subject or a routing key."""
    content_type: str = ""
    content_encoding: str = ""
    headers: Mapping[str, str] = {}
    """All that it came with, and what was added."""
    body: bytes = b""


class DeadLetters(Protocol):
    """The dead letters of one bus. Methods raise IngressError where it does not answer."""

    def all(self) -> AsyncIterator[DeadLetter]:
        """All of them, the oldest first."""
        ...

    async def get(self, number: str) -> DeadLetter | None:
        """One of them, None where there is none of this number."""
        ...

    async def replay(self, letter: DeadLetter, job_id: str, body: bytes) -> None:
        """Submit the job again as another one, and remove the letter once the bus has it.

        `body` stands for the letter's, without its encoding and of the same content type.
        """
        ...


class Prepared(Struct, frozen=True, kw_only=True):
    """What was found on a bus, one line each, for people."""

    made: tuple[str, ...] = ()
    """Was missing, and is there now."""
    missing: tuple[str, ...] = ()
    different: tuple[str, ...] = ()
    """Is not as the settings say, and was left so."""
