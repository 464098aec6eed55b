"""Stores in the daemon's memory: nothing to set up, and gone with the daemon."""

import bisect
import heapq
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, NamedTuple

from msgspec import Meta

from runnerd import (
    Blob,
    Blobs,
    KeyValues,
    Store,
    StoreError,
    check_content_type,
    check_key,
    check_range,
    check_rank,
    check_value,
    hookimpl,
)

_CHUNK_BYTES = 256 << 10


class Memory(Store, tag="memory", frozen=True, kw_only=True):
    """Keeps everything in memory. Each opening starts empty."""

    most_entries: Annotated[int, Meta(ge=1)] = 100_000
    """Entries and members of rankings, or blobs, that are kept at most; a further one is refused."""
    most_bytes: Annotated[int, Meta(ge=1)] = 256 << 20
    """Bytes that are kept at most, keys included; what would be more is refused."""
    value_bytes: Annotated[int, Meta(ge=1)] = 64 << 20
    """The largest value of a key that is taken."""

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

    def swap(self, key: str, old: int, new: int) -> None:
        """Take other room for the same key. Raises StoreError, and keeps the old then."""
        self.give(key, old)
        try:
            self.take(key, new)
        except StoreError:
            self.take(key, old)
            raise

    def give(self, key: str, size: int) -> None:
        self._entries -= 1
        self._bytes -= size + len(key)


class _KeyValues:
    """A dictionary. An operation never waits, so none sees another half done."""

    def __init__(self, settings: Memory, clock: Callable[[], float] = time.monotonic) -> None:
        self.value_bytes = settings.value_bytes
        self._entries: dict[str, _Entry] = {}
        self._rankings: dict[str, _Ranking] = {}
        self._expiries: list[tuple[float, str, int]] = []
        self._room = _Room(settings)
        self._revision = 0
        self._clock = clock

    async def get(self, key: str) -> tuple[bytes, str] | None:
        entry = self._find(check_key(key))
        return None if entry is None else (entry.value, str(entry.revision))

    async def put(self, key: str, value: bytes, ttl_s: float | None = None) -> str:
        check_value(key, value, self.value_bytes, ttl_s)
        return self._set(key, value, ttl_s)

    async def put_if_absent(self, key: str, value: bytes, ttl_s: float | None = None) -> tuple[bool, bytes, str]:
        check_value(key, value, self.value_bytes, ttl_s)
        entry = self._find(key)
        if entry is not None:
            return False, entry.value, str(entry.revision)
        return True, value, self._set(key, value, ttl_s)

    async def compare_and_set(self, key: str, revision: str, value: bytes, ttl_s: float | None = None) -> str | None:
        check_value(key, value, self.value_bytes, ttl_s)
        entry = self._find(key)
        if entry is None or str(entry.revision) != revision:
            return None
        return self._set(key, value, ttl_s)

    async def delete(self, key: str, revision: str | None = None) -> bool:
        entry = self._find(check_key(key))
        if entry is None or revision not in (None, str(entry.revision)):
            return False
        self._remove(key)
        return True

    async def rank(self, ranking: str, member: str, score: float) -> None:
        check_rank(ranking, member, score)
        members = self._rankings.get(ranking) or _Ranking()
        if member not in members.scores:
            self._make_room(ranking + member, 0)
        members.put(member, score)
        self._rankings[ranking] = members

    async def unrank(self, ranking: str, member: str) -> None:
        check_rank(ranking, member)
        members = self._rankings.get(ranking)
        if members is not None and member in members.scores:
            members.remove(member)
            self._room.give(ranking + member, 0)
            if not members.scores:
                del self._rankings[ranking]

    async def ranked(self, ranking: str, until: float = math.inf, most: int = 1000) -> list[tuple[str, float]]:
        check_key(ranking)
        members = self._rankings.get(ranking)
        return [] if members is None else members.first(until, most)

    async def expire(self, most: int = 1000) -> int:
        return self._sweep(most)

    def _find(self, key: str) -> _Entry | None:
        entry = self._entries.get(key)
        return entry if entry is not None and entry.expires > self._clock() else None

    def _set(self, key: str, value: bytes, ttl_s: float | None) -> str:
        expires = math.inf if ttl_s is None else self._clock() + ttl_s
        self._make_room(key, len(value))
        self._revision += 1
        self._entries[key] = _Entry(bytes(value), self._revision, expires)
        if expires < math.inf:
            heapq.heappush(self._expiries, (expires, key, self._revision))
            self._compact()
        return str(self._revision)

    def _make_room(self, key: str, size: int) -> None:
        """Take room, that of what expired if need be. Raises StoreError."""
        standing = self._entries.get(key)
        while True:
            try:
                return self._room.take(key, size) if standing is None else self._room.swap(key, len(standing.value), size)
            except StoreError:
                if not self._sweep(len(self._entries), but=key):
                    raise

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


class _Ranking:
    """Members by name, and in order."""

    def __init__(self) -> None:
        self.scores: dict[str, float] = {}
        self._order: list[tuple[float, str]] = []

    def put(self, member: str, score: float) -> None:
        self.remove(member)
        self.scores[member] = score
        bisect.insort(self._order, (score, member))

    def remove(self, member: str) -> None:
        score = self.scores.pop(member, None)
        if score is not None:
            del self._order[bisect.bisect_left(self._order, (score, member))]

    def first(self, until: float, most: int) -> list[tuple[str, float]]:
        end = bisect.bisect_right(self._order, until, key=lambda placed: placed[0])
        return [(member, score) for score, member in self._order[: min(end, most)]]


class _Content(NamedTuple):
    about: Blob
    data: bytes


class _Blobs:
    """Blobs as bytes objects."""

    def __init__(self, settings: Memory) -> None:
        self._blobs: dict[str, _Content] = {}
        self._room = _Room(settings)
        self._most_bytes = settings.most_bytes

    async def put(self, key: str, chunks: AsyncIterator[bytes], content_type: str = "application/octet-stream") -> Blob:
        check_key(key)
        check_content_type(content_type)
        data = bytearray()
        async for chunk in chunks:
            data += chunk
            if len(data) > self._most_bytes:
                raise StoreError(
                    f"{key}: larger than the memory store, {self._most_bytes} bytes: raise most_bytes, or take a store on disk"
                )
        standing = self._blobs.get(key)
        if standing is None:
            self._room.take(key, len(data))
        else:
            self._room.swap(key, standing.about.size, len(data))
        about = Blob(key=key, size=len(data), content_type=content_type, modified=time.time())
        self._blobs[key] = _Content(about, bytes(data))
        return about

    async def get(self, key: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        check_range(start, end)
        data = memoryview(self._blobs[check_key(key)].data)[start:end]
        for at in range(0, len(data), _CHUNK_BYTES):
            yield bytes(data[at : at + _CHUNK_BYTES])

    async def info(self, key: str) -> Blob | None:
        found = self._blobs.get(check_key(key))
        return None if found is None else found.about

    async def list(self, prefix: str = "", after: str = "", most: int = 1000) -> list[Blob]:
        keys = heapq.nsmallest(most, (key for key in self._blobs if key > after and key.startswith(prefix)))
        return [self._blobs[key].about for key in keys]

    async def delete(self, key: str) -> None:
        found = self._blobs.pop(check_key(key), None)
        if found is not None:
            self._room.give(key, found.about.size)


@hookimpl
def register_stores() -> list[type[Store]]:
    """The memory store."""
    return [Memory]
