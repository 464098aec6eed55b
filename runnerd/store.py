"""What stores agree on: KeyValues, Blobs, and Store, which describes where they are.

A store plugin implements these; nothing here does any I/O.
"""

import math
import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from msgspec import Struct

from .errors import StoreError
from .job import TOKEN

_KEY = re.compile(f"{TOKEN.pattern}(?:/{TOKEN.pattern})*")
_CONTENT_TYPE = re.compile(r"[!-~]([ -~]{0,253}[!-~])?")


def check_key(key: str) -> str:
    """Return `key` where it is made of `/`-joined tokens, `[A-Za-z0-9_-]{1,64}` each. Raises StoreError."""
    if len(key) > 512 or not _KEY.fullmatch(key):
        raise StoreError(f"key {key[:80]!r}: must be tokens of [A-Za-z0-9_-]{{1,64}} with / between them, at most 512 characters")
    return key


def check_value(key: str, value: bytes, most_bytes: int, ttl_s: float | None = None) -> None:
    """Refuse what no store can write: a bad key, a value that is too large, a life that is none. Raises StoreError."""
    check_key(key)
    if len(value) > most_bytes:
        raise StoreError(f"{key}: a value of {len(value)} bytes is larger than value_bytes, {most_bytes}")
    if ttl_s is not None and not (math.isfinite(ttl_s) and ttl_s > 0):
        raise StoreError(f"ttl_s: {ttl_s} must be a finite number of seconds above 0")


def check_rank(ranking: str, member: str, score: float = 0.0) -> None:
    """Refuse what no ranking can hold: a bad key, a score that is no number. Raises StoreError."""
    check_key(ranking)
    check_key(member)
    if math.isnan(score):
        raise StoreError(f"{member}: score must be a number")


def check_range(start: int, end: int | None) -> None:
    """Refuse a range that begins or ends before the blob does. Raises StoreError."""
    if start < 0 or (end is not None and end < start):
        raise StoreError(f"range from {start} to {end}: must be 0 <= start <= end")


def check_content_type(content_type: str) -> str:
    """Return a content type that every store can keep. Raises StoreError."""
    if not _CONTENT_TYPE.fullmatch(content_type):
        raise StoreError(f"content type {content_type[:80]!r}: must be 1 to 255 printable ASCII characters")
    return content_type


class KeyValues(Protocol):
    """A key-value store. Keys are `/`-joined tokens, see `check_key`; values are bytes; a revision is an opaque string.

    A `ttl_s` is above 0 and finite, in seconds; None keeps the entry for ever. Every method raises StoreError where the
    store does not answer, is full, the value is too large or the key is none. Beside the entries there are *rankings*: sorted sets, each
    under a key of its own, of members (keys themselves) with a score.
    """

    value_bytes: int
    """The largest value that is taken."""

    async def get(self, key: str) -> tuple[bytes, str] | None:
        """Value and revision, None where there is none or it expired."""
        ...

    async def put(self, key: str, value: bytes, ttl_s: float | None = None) -> str:
        """Write, whatever was there; returns the new revision."""
        ...

    async def put_if_absent(self, key: str, value: bytes, ttl_s: float | None = None) -> tuple[bool, bytes, str]:
        """Write if there is nothing. Returns whether it was written, and what stands there now with its revision."""
        ...

    async def compare_and_set(self, key: str, revision: str, value: bytes, ttl_s: float | None = None) -> str | None:
        """Write if the revision still stands; returns the new one, None where another was faster."""
        ...

    async def delete(self, key: str, revision: str | None = None) -> bool:
        """Remove, where `revision` is given only if it still stands. Returns whether something was removed."""
        ...

    async def rank(self, ranking: str, member: str, score: float) -> None:
        """Put a member in its place in a ranking, or move it there."""
        ...

    async def unrank(self, ranking: str, member: str) -> None:
        """Take a member out of a ranking; nothing happens where it is not in it."""
        ...

    async def ranked(self, ranking: str, until: float = math.inf, most: int = 1000) -> list[tuple[str, float]]:
        """At most so many members with a score of `until` or less, lowest first, equals by name."""
        ...

    async def expire(self, most: int = 1000) -> int:
        """Remove at most so many expired entries; returns how many."""
        ...


class Blob(Struct, frozen=True, kw_only=True):
    """What a blob store knows of a blob."""

    key: str
    size: int
    """In bytes."""
    content_type: str
    modified: float
    """When it was stored, seconds since 1970."""


class Blobs(Protocol):
    """A blob store: immutable bytes under keys of `/`-joined tokens, see `check_key`. Methods raise StoreError as KeyValues' do."""

    async def put(self, key: str, chunks: AsyncIterator[bytes], content_type: str = "application/octet-stream") -> Blob:
        """Store a blob as it streams by; it appears whole or not at all."""
        ...

    def get(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """The blob's bytes from `start` up to `end`, exclusive, in chunks. Raises KeyError where there is none."""
        ...

    async def info(self, key: str) -> Blob | None:
        """What is known of a blob, None where there is none."""
        ...

    async def list(self, prefix: str = "", after: str = "", most: int = 1000) -> list[Blob]:
        """At most so many blobs, in the order of their keys, whose keys begin with `prefix` and come behind `after`.

        Fewer are the last ones. A store that would have to ask for each blob leaves `content_type` empty here.
        """
        ...

    async def delete(self, key: str) -> None:
        """Remove; nothing happens where there is nothing."""
        ...


class Store(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """A key-value or blob store. A subclass's fields are its table in runnerd.toml.

    A store implements `open_kv`, `open_blobs` or both. Both raise StoreError, naming where and why. Its fields are
    described as those of an Ingress are, `state_dir` among them. Where a variable named in `Meta(extra={"env": …, "selects": True})`
    is set and nothing says the kind, it is this one.
    """

    def where(self) -> str:
        """Where it is, for people to read and without secrets: host and port, or a path. Empty: in this process."""
        return ""

    def open_kv(self) -> AbstractAsyncContextManager[KeyValues]:
        """The store as a key-value store, while the block is open."""
        raise NotImplementedError

    def open_blobs(self) -> AbstractAsyncContextManager[Blobs]:
        """The store as a blob store, while the block is open."""
        raise NotImplementedError
