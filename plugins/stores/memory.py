"""Stores in the daemon's memory: nothing to set up, and gone with the daemon."""

import heapq
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, NamedTuple

from msgspec import Meta

from runnerd import Blobs, KeyValues, Store, StoreError, check_key, hookimpl

_CHUNK_BYTES = 256 << 10


class Memory(Store, tag="memory", frozen=True, kw_only=True):
    """Keeps everything in memory. Each opening starts empty."""

    most_entries: Annotated[int, Meta(ge=1)] = 100_000
    """Entries, or blobs, that are kept at most; a further one is refused."""
    most_bytes: Annotated[int, Meta(ge=1)] = 256 << 20
    """Bytes that are kept at most, keys included; what would be more is refused."""

    @asynccontextmanager
    async def open_kv(self) -> AsyncGenerator[KeyValues, None]:
        """An empty key-value store."""
        yield _KeyValues(self)

    @asynccontextmanager
    async def open_blobs(self) -> AsyncGenerator[Blobs, None]:
        """An empty blob store."""
        yield _Blobs(self)


class _Entry(NamedTuple):
    value: bytes
    revision: int
    expires: float


class _Room:
    """What is taken of the store's bounds."""

    def __init__(self, settings: Memory) -> None:
        self._settings = settings
        self._entries = 0
        self._bytes = 0

    def take(self, key: str, size: int) -> None:
        """Raises StoreError where there is no room, and takes none then."""
        settings, size = self._settings, size + len(key)
        if self._entries + 1 > settings.most_entries:
            raise StoreError(f"the memory store is full with {self._entries} entries: raise most_entries, or take a store on disk")
        if self._bytes + size > settings.most_bytes:
            raise StoreError(
                f"the memory store has no room for {size} bytes beside {self._bytes}: raise most_bytes, or take a store on disk"
            )
        self._entries += 1
        self._bytes += size

    def give(self, key: str, size: int) -> None:
        self._entries -= 1
        self._bytes -= size + len(key)


class _KeyValues:
    """A dictionary. An operation never waits, so none sees another half done."""

    def __init__(self, settings: Memory, clock: Callable[[], float] = time.monotonic) -> None:
        self._entries: dict[str, _Entry] = {}
        self._expiries: list[tuple[float, str, int]] = []
        self._room = _Room(settings)
        self._revision = 0
        self._clock = clock

    async def get(self, key: str) -> tuple[bytes, str] | None:
        entry = self._find(check_key(key))
        return None if entry is None else (entry.value, str(entry.revision))

    async def put(self, key: str, value: bytes, ttl_s: float | None = None) -> str:
        return self._set(check_key(key), value, ttl_s)

    async def put_if_absent(self, key: str, value: bytes, ttl_s: float | None = None) -> tuple[bool, bytes, str]:
        entry = self._find(check_key(key))
        if entry is not None:
            return False, entry.value, str(entry.revision)
        return True, value, self._set(key, value, ttl_s)

    async def compare_and_set(self, key: str, revision: str, value: bytes, ttl_s: float | None = None) -> str | None:
        entry = self._find(check_key(key))
        if entry is None or str(entry.revision) != revision:
            return None
        return self._set(key, value, ttl_s)

    async def delete(self, key: str) -> None:
        self._remove(check_key(key))

    async def expire(self, most: int = 1000) -> int:
        return self._sweep(most)

    def _find(self, key: str) -> _Entry | None:
        entry = self._entries.get(key)
        return entry if entry is not None and entry.expires > self._clock() else None

    def _set(self, key: str, value: bytes, ttl_s: float | None) -> str:
        expires = math.inf if ttl_s is None else self._clock() + _checked(ttl_s)
        standing = self._entries.get(key)
        if standing is not None:
            self._room.give(key, len(standing.value))
        try:
            self._make_room(key, len(value))
        except StoreError:
            if standing is not None:
                self._room.take(key, len(standing.value))
            raise
        self._revision += 1
        self._entries[key] = _Entry(bytes(value), self._revision, expires)
        if expires < math.inf:
            heapq.heappush(self._expiries, (expires, key, self._revision))
            self._compact()
        return str(self._revision)

    def _make_room(self, key: str, size: int) -> None:
        try:
            self._room.take(key, size)
        except StoreError:
            if not self._sweep(len(self._entries), but=key):
                raise
            self._room.take(key, size)

    def _sweep(self, most: int, but: str = "") -> int:
        now, removed = self._clock(), 0
        while removed < most and self._expiries and self._expiries[0][0] <= now:
            _, key, revision = heapq.heappop(self._expiries)
            entry = self._entries.get(key)
            if entry is not None and entry.revision == revision and key != but:
                self._remove(key)
                removed += 1
        return removed

    def _remove(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._room.give(key, len(entry.value))

    def _compact(self) -> None:
        """Drop the expiries of entries that were overwritten, before they outnumber the entries."""
        if len(self._expiries) > 2 * len(self._entries) + 1000:
            self._expiries = [(entry.expires, key, entry.revision) for key, entry in self._entries.items() if entry.expires < math.inf]
            heapq.heapify(self._expiries)


class _Blobs:
    """Blobs as bytes objects."""

    def __init__(self, settings: Memory) -> None:
        self._blobs: dict[str, bytes] = {}
        self._room = _Room(settings)
        self._most_bytes = settings.most_bytes

    async def put(self, key: str, chunks: AsyncIterator[bytes], content_type: str = "") -> int:  # noqa: ARG002 - nobody reads it back here
        check_key(key)
        content = bytearray()
        async for chunk in chunks:
            content += chunk
            if len(content) > self._most_bytes:
                raise StoreError(
                    f"{key}: larger than the memory store, {self._most_bytes} bytes: raise most_bytes, or take a store on disk"
                )
        standing = self._blobs.pop(key, None)
        if standing is not None:
            self._room.give(key, len(standing))
        self._room.take(key, len(content))
        self._blobs[key] = bytes(content)
        return len(content)

    async def get(self, key: str) -> AsyncGenerator[bytes, None]:
        content = memoryview(self._blobs[check_key(key)])
        for start in range(0, len(content), _CHUNK_BYTES):
            yield bytes(content[start : start + _CHUNK_BYTES])

    async def delete(self, key: str) -> None:
        content = self._blobs.pop(check_key(key), None)
        if content is not None:
            self._room.give(key, len(content))


def _checked(ttl_s: float) -> float:
    if not (math.isfinite(ttl_s) and ttl_s > 0):
        raise StoreError(f"ttl_s: {ttl_s} must be a finite number of seconds above 0")
    return ttl_s


@hookimpl
def register_stores() -> list[type[Store]]:
    """The memory store."""
    return [Memory]
