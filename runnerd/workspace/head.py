"""What the store knows of one session, and how each thing that happens changes it: plain code, no I/O.

All of it stands in one entry, so every change is one compare-and-set, and who reads it sees it whole.
"""

import hashlib
from collections.abc import Iterable

import msgspec
from msgspec import Struct

from ..errors import StoreError
from ..job import Stored
from ..sessions import Owner, Session, Snapshot
from .settings import FileSettings, StateSettings


class Running(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The job that works in a session."""

    job: str
    by: str
    """Which daemon runs it."""
    recorded: bool = False
    """Whether it has a record, which then decides what becomes of what it leaves."""


class State(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A snapshot of the interpreter: one version of it, which never changes. Times in seconds since 1970."""

    version: str
    size: int
    hash: str
    created: float
    in_blobs: bool = False
    """Whether it lies in the blob store, and not in the key-value store."""
    inline: bytes = b""
    """All of it, where it is so small that it needs no entry of its own."""
    archived: float = 0.0
    """Since when it is archived, 0 for not."""


class Head(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A session. Times in seconds since 1970."""

    owner: Owner
    created: float
    used: float
    files: tuple[Stored, ...] = ()
    """The current version of each file."""
    older: tuple[Stored, ...] = ()
    """Former versions, the latest first."""
    state: State | None = None
    fence: int = 0
    """How often it was taken. What was done under a smaller number is void."""
    running: Running | None = None


class Left(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a job leaves in its session."""

    fence: int
    """Of the session, when the job took it."""
    files: tuple[Stored, ...] = ()
    state: State | None = None
    """None: the one that was there stays."""


_head_decoder = msgspec.msgpack.Decoder(Head)
_left_decoder = msgspec.msgpack.Decoder(Left)
_encoder = msgspec.msgpack.Encoder()


def encoded(it: Head | Left) -> bytes:
    """As bytes for the store."""
    return _encoder.encode(it)


def decoded(key: str, value: bytes) -> Head:
    """The inverse. Raises StoreError."""
    try:
        return _head_decoder.decode(value)
    except msgspec.DecodeError as error:
        raise StoreError(f"{key} holds no session: {error}") from None


def left_of(key: str, value: bytes) -> Left | None:
    """What a job's record says that it left, None for nothing. Raises StoreError."""
    try:
        return _left_decoder.decode(value) if value else None
    except msgspec.DecodeError as error:
        raise StoreError(f"{key} says nonsense of what the job left: {error}") from None


def mark(head: Head, fence: int) -> str:
    """What tells whether a session is as a job left it: how often it was taken by then, and what is in it."""
    files = sorted((file.name, file.id) for file in head.files)
    return hashlib.sha256(repr((fence, files, head.state.version if head.state else "")).encode()).hexdigest()


def visible(asker: Owner, owner: Owner) -> bool:
    """Whether one who asks may see what is the owner's."""
    return asker.tenant == owner.tenant and all(
        not mine or not theirs or mine == theirs for mine, theirs in ((asker.user, owner.user), (asker.entity, owner.entity))
    )


def taken(head: Head, running: Running, now: float) -> Head:
    """The session in the hand of a job. `now` never puts its last use back: clocks differ, and jump."""
    return msgspec.structs.replace(head, running=running, fence=head.fence + 1, used=max(head.used, now))


def freed(head: Head, fence: int) -> Head | None:
    """The session as it was before it was taken under `fence`; None where another has it since."""
    if head.running is None or head.fence != fence:
        return None
    return msgspec.structs.replace(head, running=None)


def moved(head: Head, left: Left, now: float, settings: FileSettings) -> Head | None:
    """The session with what a job left in it; None where that was done before, or the session was taken from the job."""
    free = freed(head, left.fence)
    if free is None:
        return None
    for file in left.files:
        free = with_file(free, file, settings)
    return msgspec.structs.replace(free, state=left.state or free.state, used=max(free.used, now))


def with_file(head: Head, file: Stored, settings: FileSettings) -> Head:
    """The session with one more file. One of the same name becomes a former version; of those, the oldest go where room is short."""
    others = tuple(other for other in head.files if other.name != file.name)
    former = tuple(other for other in head.files if other.name == file.name)
    files = (*others, file)
    return msgspec.structs.replace(head, files=files, older=_kept((*former, *head.older), files, settings))


def without_file(head: Head, file_id: str) -> Head:
    """The session without one version of a file."""
    files, older = (tuple(file for file in several if file.id != file_id) for several in (head.files, head.older))
    return msgspec.structs.replace(head, files=files, older=older)


def dropped(before: Head, after: Head | None) -> list[Stored]:
    """Files that the one has and the other has no more."""
    kept = set() if after is None else {file.id for file in all_files(after)}
    return [file for file in all_files(before) if file.id not in kept]


def all_files(head: Head) -> tuple[Stored, ...]:
    """Current and former versions."""
    return head.files + head.older


def current(head: Head, name: str) -> Stored | None:
    """The current version of a file."""
    return next((file for file in head.files if file.name == name), None)


def no_room(files: Iterable[Stored], name: str, size: int, settings: FileSettings) -> str:
    """Why a file of this name and size can't be one of a session's current ones, with the setting to raise; empty where it can."""
    others = [file for file in files if file.name != name]
    if len(others) >= settings.most:
        return f"the session has {len(others)} files, at most {settings.most} allowed: raise the daemon's setting files.most"
    total = sum(file.size for file in others) + size
    if total > settings.total_bytes:
        return (
            f"the session's files would have {total} bytes, at most {settings.total_bytes} allowed: "
            "raise the daemon's setting files.total_bytes"
        )
    return ""


def state_ends(head: Head, settings: StateSettings) -> float:
    """When the session's snapshot is removed, unless the session is used before."""
    assert head.state is not None
    if head.state.archived:
        return max(head.state.archived, head.used) + settings.archive_ttl_s
    return head.used + settings.ttl_s + (settings.archive_ttl_s if settings.archive else 0)


def state_due(head: Head, settings: StateSettings) -> float:
    """When something is to be done about the session's snapshot: archive it, or remove it."""
    if head.state is None or head.state.archived:
        return state_ends(head, settings) if head.state else 0.0
    return head.used + (min(settings.archive_after_s, settings.ttl_s) if settings.archive else settings.ttl_s)


def living(head: Head, now: float, ttl_s: float, settings: StateSettings) -> Head | None:
    """What has not expired of a session; None where nothing is left. While a job works in it, all of it lives."""
    if head.running is not None:
        return head
    if head.state is not None and (not settings.enabled or state_ends(head, settings) <= now):
        head = msgspec.structs.replace(head, state=None)
    if head.used + ttl_s > now:
        return head
    return None if head.state is None else msgspec.structs.replace(head, files=(), older=())


def ends(head: Head, ttl_s: float, settings: StateSettings) -> float:
    """When nothing is left of a session, unless it is used before."""
    files = head.used + ttl_s
    return files if head.state is None else max(files, state_ends(head, settings))


def due(head: Head, now: float, ttl_s: float, settings: StateSettings) -> float:
    """When the next part of a session expires."""
    files = head.used + ttl_s
    return files if files > now else ends(head, ttl_s, settings)


def described(session: str, head: Head, ttl_s: float, settings: StateSettings) -> Session:
    """A session as people may see it."""
    state, snapshot = head.state, None
    if state is not None:
        expires = state_ends(head, settings)
        snapshot = Snapshot(size=state.size, hash=state.hash, created=state.created, expires=expires, archived=bool(state.archived))
    return Session(
        id=session,
        owner=head.owner,
        created=head.created,
        used=head.used,
        expires=ends(head, ttl_s, settings),
        files=tuple(sorted(head.files, key=lambda file: file.name)),
        older=head.older,
        snapshot=snapshot,
        job=head.running.job if head.running else "",
    )


def _kept(older: Iterable[Stored], files: tuple[Stored, ...], settings: FileSettings) -> tuple[Stored, ...]:
    kept: list[Stored] = []
    room = settings.total_bytes - sum(file.size for file in files)
    for file in older:
        room -= file.size
        if room < 0 or len(kept) >= settings.most:
            break
        kept.append(file)
    return tuple(kept)
