"""What an ingress may ask of sessions: Owner, Session, Snapshot, Sessions.

`workspace` implements it; nothing here does any I/O.
"""

from collections.abc import AsyncIterator
from typing import Protocol

from msgspec import Struct

from .job import Stored


class Owner(Struct, frozen=True, kw_only=True):
    """Whose a session is, and who asks for one.

    One who asks sees a session of the same tenant where neither user nor entity differs; an empty one says nothing, so it
    differs from none. A tenant is what its credentials prove; user and entity are the tenant's own word.
    """

    tenant: str
    user: str = ""
    entity: str = ""


class Session(Struct, frozen=True, kw_only=True):
    """What there is to know of a session. Times in seconds since 1970."""

    id: str
    owner: Owner
    created: float
    used: float
    """When a job or a request last worked in it."""
    expires: float
    """When it is removed, unless it is used before."""
    files: tuple[Stored, ...] = ()
    """The current version of each file, by name: what the next job finds."""
    older: tuple[Stored, ...] = ()
    """Former versions that can still be had by their id, the latest first."""
    snapshot: "Snapshot | None" = None
    """The variables of its interpreter, None for none."""
    job: str = ""
    """Id of the job that works in it now."""


class Snapshot(Struct, frozen=True, kw_only=True):
    """The variables of an interpreter as they were after a job. Times in seconds since 1970."""

    size: int
    """In bytes."""
    hash: str
    """Of its content, opaque; two snapshots of one hash are the same."""
    created: float
    expires: float
    """When it is removed, unless it is used before."""
    archived: bool = False
    """Whether it lies in the blob store, after some time without use."""


class Sessions(Protocol):
    """All sessions of all owners.

    A session that does not exist, has expired or is another's raises NotFound, always with the same words. All methods raise
    StoreError where a store fails. Reading and writing makes a session live longer, listing does not.
    """

    async def create(self, owner: Owner) -> Session:
        """A new session. Raises OverLimit where its entity has too many."""
        ...

    async def find(self, owner: Owner, session: str) -> Session:
        """A session with its files. Raises NotFound."""
        ...

    async def list(self, owner: Owner, most: int = 100) -> list[Session]:
        """At most so many sessions of the owner's entity (of those without one, where it is empty) that the owner may see."""
        ...

    async def delete(self, owner: Owner, session: str) -> None:
        """Remove a session with all that is in it. A job that works in it goes on, and leaves nothing. Raises NotFound."""
        ...

    async def upload(self, owner: Owner, session: str, name: str, chunks: AsyncIterator[bytes], content_type: str = "") -> Stored:
        """Store a file as it streams by; one that has the name already stays as a former version.

        `name` is a path below /mnt/data and may come from anywhere: it is made safe, and `Stored.name` says what became of it.
        Raises NotFound, Rejected where nothing of the name is left, and OverLimit.
        """
        ...

    async def download(
        self, owner: Owner, session: str, file: str, start: int = 0, end: int | None = None
    ) -> tuple[Stored, AsyncIterator[bytes]]:
        """A file by its id, and its bytes from `start` up to `end`, exclusive. Raises NotFound, and so does reading."""
        ...

    async def remove(self, owner: Owner, session: str, file: str) -> None:
        """Remove one version of a file; where it is the current one, no former one takes its place. Raises NotFound."""
        ...

    async def load(self, owner: Owner, session: str) -> tuple[Snapshot, AsyncIterator[bytes]]:
        """The session's snapshot and its bytes. Raises NotFound."""
        ...

    async def save(self, owner: Owner, session: str, chunks: AsyncIterator[bytes], expected: str | None = None) -> Snapshot:
        """Put a snapshot in the place of the one that has the hash `expected`, "" for none, None for whatever is there.

        Raises NotFound, OverLimit, and Conflict where another hash stands there or a job works in the session.
        """
        ...

    async def forget(self, owner: Owner, session: str, expected: str | None = None) -> None:
        """Remove the snapshot, where there is one. Raises NotFound, and Conflict as `save` does."""
        ...
