"""Blobs as messages: chunks under the blob's own id, and one message under its key that names them.

chunk.<id>.<n>    a piece; all but the last have the same size
upload.<id>       the key of a blob that is being stored, until it is
blob.<key>        JSON: id, size, chunk_bytes, content_type, modified
"""

import asyncio
import bisect
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

import msgspec
from msgspec import Struct

from runnerd import Blob, check_content_type, check_key, check_range, new_id

from .connection import Connection, Stored

_ABANDONED_S = 86_400.0
"""An upload that began so long ago was left by a process that died."""


class _Manifest(Struct, frozen=True, kw_only=True):
    id: str
    size: int
    chunk_bytes: int
    content_type: str
    modified: float


class JetStreamBlobs:
    """See `Blobs` of runnerd for what the methods promise."""

    def __init__(self, connection: Connection, bucket: str, *, chunk_bytes: int, window: int) -> None:
        self._connection = connection
        self._stream = f"BLOBS_{bucket}"
        self._subject = f"$BLOBS.{bucket}."
        self._chunk_bytes = min(chunk_bytes, connection.payload_bytes)
        self._window = window

    async def put(self, key: str, chunks: AsyncIterator[bytes], content_type: str = "application/octet-stream") -> Blob:
        """See `Blobs.put`."""
        check_key(key)
        check_content_type(content_type)
        blob_id = new_id()
        await self._connection.publish(f"{self._subject}upload.{blob_id}", key.encode(), {})
        try:
            size = await self._write(blob_id, chunks)
            made = _Manifest(id=blob_id, size=size, chunk_bytes=self._chunk_bytes, content_type=content_type, modified=time.time())
            replaced = await self._replace(key, made)
        except BaseException:
            await asyncio.shield(self._drop(blob_id))
            raise
        await self._connection.purge(self._stream, f"{self._subject}upload.{blob_id}")
        if replaced:
            await self._drop(replaced)
        return _blob(key, made)

    async def get(self, key: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """See `Blobs.get`."""
        check_key(key)
        check_range(start, end)
        found = await self._manifest(key)
        if found is None:
            raise KeyError(key)
        end = found.size if end is None else min(end, found.size)
        numbers = range(start // found.chunk_bytes, -(-end // found.chunk_bytes))
        for first in range(numbers.start, numbers.stop, self._window):
            some = range(first, min(first + self._window, numbers.stop))
            for number, chunk in zip(some, await asyncio.gather(*(self._chunk(key, found.id, n) for n in some)), strict=True):
                begin = number * found.chunk_bytes
                yield chunk[max(0, start - begin) : end - begin]

    async def info(self, key: str) -> Blob | None:
        """See `Blobs.info`."""
        found = await self._manifest(check_key(key))
        return None if found is None else _blob(key, found)

    async def list(self, prefix: str = "", after: str = "", most: int = 1000) -> list[Blob]:
        """See `Blobs.list`. All keys are looked at for it."""
        place = f"{self._subject}blob."
        keys: list[str] = []
        async for subject in self._connection.subjects(self._stream, place + ">"):
            key = subject.removeprefix(place).replace(".", "/")
            if key.startswith(prefix) and key > after and (len(keys) < most or key < keys[-1]):
                bisect.insort(keys, key)
                del keys[most:]
        blobs: list[Blob] = []
        for i in range(0, len(keys), self._window):
            some = await asyncio.gather(*map(self.info, keys[i : i + self._window]))
            blobs += [blob for blob in some if blob is not None]
        return blobs

    async def delete(self, key: str) -> None:
        """See `Blobs.delete`."""
        found = await self._connection.last(self._stream, self._of(check_key(key)))
        if found is not None:
            await self._connection.purge(self._stream, self._of(key), found.sequence)
            await self._drop(self._read(key, found).id)

    async def sweep(self) -> None:
        """Remove what was left half stored by processes that died."""
        place = f"{self._subject}upload."
        async for subject in self._connection.subjects(self._stream, place + "*"):
            blob_id = subject.removeprefix(place)
            if time.time() - int(blob_id[:12], 16) / 1000 < _ABANDONED_S:
                continue
            upload = await self._connection.last(self._stream, subject)
            made = await self._manifest(upload.data.decode()) if upload is not None else None
            if made is None or made.id != blob_id:
                await self._drop(blob_id)
            await self._connection.purge(self._stream, subject)

    async def _write(self, blob_id: str, chunks: AsyncIterator[bytes]) -> int:
        """Write chunks of one size, some at a time; returns the bytes that there were."""
        size = number = 0
        waiting = bytearray()
        batch: list[bytes] = []
        async for chunk in chunks:
            size += len(chunk)
            waiting += chunk
            while len(waiting) >= self._chunk_bytes:
                batch.append(bytes(waiting[: self._chunk_bytes]))
                del waiting[: self._chunk_bytes]
                if len(batch) == self._window:
                    await self._publish(blob_id, number, batch)
                    number += len(batch)
                    batch = []
        await self._publish(blob_id, number, [*batch, bytes(waiting)] if waiting else batch)
        return size

    async def _publish(self, blob_id: str, first: int, batch: Sequence[bytes]) -> None:
        place = f"{self._subject}chunk.{blob_id}."
        await asyncio.gather(*(self._connection.publish(f"{place}{first + i}", data, {}) for i, data in enumerate(batch)))

    async def _chunk(self, key: str, blob_id: str, number: int) -> bytes:
        data = await self._connection.copy(self._stream, f"{self._subject}chunk.{blob_id}.{number}")
        if data is None:
            raise self._connection.failure(f"{key}: deleted, or replaced, while it was read")
        return data

    async def _replace(self, key: str, made: _Manifest) -> str:
        """Have the blob appear; returns the id of the one that it replaced, empty for none: of many writers each replaces another."""
        while True:
            found = await self._connection.last(self._stream, self._of(key))
            expected = found.sequence if found is not None else 0
            if await self._connection.publish(self._of(key), msgspec.json.encode(made), {}, expected) is not None:
                return self._read(key, found).id if found is not None else ""

    async def _manifest(self, key: str) -> _Manifest | None:
        found = await self._connection.last(self._stream, self._of(key))
        return None if found is None else self._read(key, found)

    def _read(self, key: str, found: Stored) -> _Manifest:
        try:
            return msgspec.json.decode(found.data, type=_Manifest)
        except msgspec.DecodeError as error:
            raise self._connection.failure(f"{key}: what is there describes no blob: {error}") from None

    async def _drop(self, blob_id: str) -> None:
        await self._connection.purge(self._stream, f"{self._subject}chunk.{blob_id}.*")
        await self._connection.purge(self._stream, f"{self._subject}upload.{blob_id}")

    def _of(self, key: str) -> str:
        return f"{self._subject}blob.{key.replace('/', '.')}"


def _blob(key: str, made: _Manifest) -> Blob:
    return Blob(key=key, size=made.size, content_type=made.content_type, modified=made.modified)
