"""Contents of files and snapshots, on their way into the stores and out of them: counted, hashed, bounded, never held whole.

Every version has a key of its own and is never written again, so nothing that is being read changes.
"""

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import aclosing, contextmanager
from typing import cast

import structlog

from ..errors import NotFound, OverLimit, RunnerdError, StoreError
from ..record import Records
from ..store import Blobs
from .head import State
from .names import OCTETS, file_key, new_token, state_key
from .settings import StateSettings

_DAY_S = 86_400.0
log = structlog.get_logger("runnerd.workspace")


class Meter:
    """Counts and hashes what streams by. Raises OverLimit with `refusal` once it is more than `most`."""

    def __init__(self, chunks: AsyncIterator[bytes], most: int, refusal: str) -> None:
        self.size = 0
        self.failure: Exception | None = None
        """What the source raised: no failure of the store that reads it."""
        self._chunks = chunks
        self._most = most
        self._refusal = refusal
        self._hash = hashlib.sha256()

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        try:
            async for chunk in self._chunks:
                self._count(chunk)
                yield chunk
        except Exception as error:
            self.failure = error
            raise

    def _count(self, chunk: bytes) -> None:
        self.size += len(chunk)
        if self.size > self._most:
            raise OverLimit(self._refusal)
        self._hash.update(chunk)

    @property
    def digest(self) -> str:
        """SHA-256 of all that came by, in hex."""
        return self._hash.hexdigest()


class Contents:
    """The bytes of all sessions' files and snapshots. Methods raise StoreError."""

    def __init__(self, records: Records, blobs: Blobs, settings: StateSettings) -> None:
        self._kv = records.kv
        self._patiently = records.patiently
        self._blobs = blobs
        self._hot_bytes = min(settings.hot_bytes, records.kv.value_bytes)
        self._inline_bytes = min(settings.inline_bytes, self._hot_bytes)
        # one that no session names, because its start was lost, goes then; of the others the sweeper thinks in time
        self._hot_ttl_s = 2 * (settings.ttl_s + settings.archive_check_s) + _DAY_S

    async def put_file(self, tenant: str, session: str, meter: Meter, content_type: str) -> str:
        """Store a file; returns its new id. Raises OverLimit."""
        file = new_token()
        with _asked(meter):
            await self._blobs.put(file_key(tenant, session, file), aiter(meter), content_type)
        return file

    def file(self, tenant: str, session: str, file: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """A file's bytes. Raises KeyError where it is gone."""
        return self._read(file_key(tenant, session, file), start, end)

    async def put_state(self, tenant: str, session: str, meter: Meter, now: float) -> State:
        """Store a snapshot, by its size: with the session itself, beside it, or as a blob. Raises OverLimit."""
        version = new_token()
        key = state_key(tenant, session, version)
        chunks = aiter(meter)
        small, whole = await _small(chunks, self._hot_bytes)
        if whole and len(small) <= self._inline_bytes:
            return State(version=version, size=meter.size, hash=meter.digest, created=now, inline=small)
        if whole:
            await self._patiently(lambda: self._kv.put(key, small, self._hot_ttl_s))
        else:
            with _asked(meter):
                await self._blobs.put(key, _joined(small, chunks), OCTETS)
        return State(version=version, size=meter.size, hash=meter.digest, created=now, in_blobs=not whole)

    async def hot(self, tenant: str, session: str, state: State) -> bytes | None:
        """A snapshot that lies in the key-value store; None where it is gone."""
        if state.inline or not state.size:
            return state.inline
        key = state_key(tenant, session, state.version)
        found = await self._patiently(lambda: self._kv.get(key))
        return None if found is None else found[0]

    async def ahead(self, tenant: str, session: str, state: State | None) -> bytes | None:
        """The same, of a snapshot that has an entry of its own; None as well where the store fails, which whoever needs it will see."""
        if state is None or state.inline or state.in_blobs:
            return None
        try:
            return await self.hot(tenant, session, state)
        except StoreError:
            return None

    async def warm(self, tenant: str, session: str, state: State, value: bytes) -> None:
        """Have a snapshot that has an entry of its own live on there."""
        key = state_key(tenant, session, state.version)
        await self._patiently(lambda: self._kv.put(key, value, self._hot_ttl_s))

    async def cool(self, tenant: str, session: str, state: State, value: bytes) -> None:
        """Copy a snapshot from the key-value store to the blob store."""
        with _asked():
            await self._blobs.put(state_key(tenant, session, state.version), one(value), OCTETS)

    def cold(self, tenant: str, session: str, state: State) -> AsyncIterator[bytes]:
        """The bytes of a snapshot in the blob store. Raises KeyError where it is gone."""
        return self._read(state_key(tenant, session, state.version))

    async def state(self, tenant: str, session: str, state: State) -> AsyncIterator[bytes]:
        """A snapshot's bytes, wherever it lies. Raises NotFound."""
        if state.in_blobs:
            return self.cold(tenant, session, state)
        value = await self.hot(tenant, session, state)
        if value is None:
            raise NotFound("the snapshot was removed just now")
        return one(value)

    async def drop(self, tenant: str, session: str, files: Iterable[str] = (), state: State | None = None) -> None:
        """Remove versions that no session names. What a store does not remove now, the sweeper finds."""
        try:
            with _asked():
                for file in files:
                    await self._blobs.delete(file_key(tenant, session, file))
                if state is not None and state.in_blobs:
                    await self._blobs.delete(state_key(tenant, session, state.version))
            if state is not None and not state.in_blobs and not state.inline:
                await self.drop_hot(tenant, session, state)
        except StoreError as error:
            log.warning("what no session names is removed later", session=session, reason=str(error))

    async def drop_hot(self, tenant: str, session: str, state: State) -> None:
        """Remove a snapshot from the key-value store."""
        key = state_key(tenant, session, state.version)
        await self._patiently(lambda: self._kv.delete(key))

    async def _read(self, key: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        with _asked():
            async with aclosing(cast(AsyncGenerator[bytes, None], self._blobs.get(key, start, end))) as chunks:
                async for chunk in chunks:
                    yield chunk


@contextmanager
def _asked(meter: Meter | None = None) -> Iterator[None]:
    """The blob store is a plugin: whatever it raises is a store that fails, but for what the stream that it reads raised."""
    try:
        yield
    except (RunnerdError, KeyError):
        raise
    except Exception as error:
        if meter is not None and error is meter.failure:
            raise
        raise StoreError(f"the blob store failed: {type(error).__name__}: {error}") from error


async def one(value: bytes) -> AsyncGenerator[bytes, None]:
    """Bytes as a stream of one chunk."""
    yield value


async def _small(chunks: AsyncIterator[bytes], most: int) -> tuple[bytes, bool]:
    """The first bytes of a stream, until it ends or they are more than `most`; and whether it ended."""
    start: list[bytes] = []
    size = 0
    async for chunk in chunks:
        start.append(chunk)
        size += len(chunk)
        if size > most:
            return b"".join(start), False
    return b"".join(start), True


async def _joined(start: bytes, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    yield start
    async for chunk in chunks:
        yield chunk
