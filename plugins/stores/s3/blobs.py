"""Blobs as objects of a bucket.

A key's `/` is written `./` in an object's name. So a name never is another's directory, which servers that keep files refuse,
directories are there all the same, and names are in the order of their keys.
"""

import asyncio
import io
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING

from minio import Minio

from runnerd import Blob, StoreError, Turns, check_content_type, check_key, check_range

from .bucket import Bucket, RangeError
from .upload import Upload, cut

if TYPE_CHECKING:
    from minio.datatypes import Object
    from urllib3.response import BaseHTTPResponse

    from . import S3

_CHUNK_BYTES = 1 << 20
"""Two of them are in memory for each download: one is used while the next is read."""


class S3Blobs:
    """See `Blobs` of runnerd for what the methods promise."""

    def __init__(self, bucket: Bucket, s3: "S3") -> None:
        self._bucket = bucket
        self._prefix = s3.prefix
        self._part_bytes = s3.part_bytes
        self._uploads = _turns(s3, "uploads", s3.uploads)
        self._downloads = _turns(s3, "downloads", s3.downloads)
        self._requests = _turns(s3, "requests", s3.downloads)

    async def put(self, key: str, chunks: AsyncIterator[bytes], content_type: str = "application/octet-stream") -> Blob:
        """See `Blobs.put`."""
        name = self._name(key)
        check_content_type(content_type)
        async with self._uploads.turn():
            size = await self._put(name, cut(chunks, self._part_bytes), content_type)
        return Blob(key=key, size=size, content_type=content_type, modified=time.time())

    async def _put(self, name: str, parts: AsyncGenerator[bytes], content_type: str) -> int:
        """Store what comes, in one request where it is one part; returns its size in bytes."""
        first = await anext(parts, b"")
        second = await anext(parts, None)
        if second is None:
            await self._put_whole(name, first, content_type)
            return len(first)
        upload = Upload(self._bucket, name, content_type)
        await upload.begin()
        try:
            size = 0
            for part in (first, second):
                size += len(part)
                await upload.add(part)
            del first, second, part
            async for part in parts:
                size += len(part)
                await upload.add(part)
            await upload.complete()
        except BaseException:
            await upload.abort()
            raise
        return size

    async def _put_whole(self, name: str, body: bytes, content_type: str) -> None:
        typed = {"content_type": content_type, "part_size": max(len(body), self._part_bytes)}
        sending = self._bucket.begin(lambda client, bucket: client.put_object(bucket, name, io.BytesIO(body), len(body), **typed))  # type: ignore[arg-type]
        try:
            await self._bucket.outcome(sending)
        except BaseException:
            await self._bucket.ended(sending)  # until then it may still become an object
            raise

    async def get(self, key: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """See `Blobs.get`."""
        name = self._name(key)
        check_range(start, end)
        if start == end:
            if await self.info(key) is None:
                raise KeyError(key)
            return
        async with self._downloads.turn():
            length = 0 if end is None else end - start
            opening = self._bucket.begin(lambda client, bucket: client.get_object(bucket, name, offset=start, length=length))
            try:
                response = await self._bucket.outcome(opening)
            except KeyError:
                raise KeyError(key) from None
            except RangeError:
                return
            except BaseException:
                opening.add_done_callback(_close)
                raise
            reading = self._read(response)
            try:
                while chunk := await self._bucket.outcome(reading):
                    reading = self._read(response)  # the next chunk comes while this one is used
                    yield chunk
                response.release_conn()
            finally:
                reading.add_done_callback(lambda ended: _close_read(response, ended))

    async def info(self, key: str) -> Blob | None:
        """See `Blobs.info`."""
        name = self._name(key)
        async with self._requests.turn():
            try:
                return _blob(key, await self._bucket.ask(lambda client, bucket: client.stat_object(bucket, name)))
            except KeyError:
                return None

    async def list(self, prefix: str = "", after: str = "", most: int = 1000) -> list[Blob]:
        """See `Blobs.list`."""
        beginning, behind = self._prefix + _written(prefix), self._prefix + _written(after) if after else None

        def act(client: Minio, bucket: str) -> list[Blob]:
            found: list[Blob] = []
            for item in client.list_objects(bucket, prefix=beginning, recursive=True, start_after=behind):
                key = self._key(item.object_name or "")
                if key:
                    found.append(_blob(key, item))
                if len(found) == most:
                    break
            return found

        async with self._requests.turn():
            return await self._bucket.ask(act)

    async def delete(self, key: str) -> None:
        """See `Blobs.delete`."""
        name = self._name(key)
        async with self._requests.turn():
            await self._bucket.ask(lambda client, bucket: client.remove_object(bucket, name))

    def _read(self, response: "BaseHTTPResponse") -> "asyncio.Future[bytes]":
        return self._bucket.begin(lambda *_: response.read(_CHUNK_BYTES))

    def _name(self, key: str) -> str:
        return self._prefix + _written(check_key(key))

    def _key(self, name: str) -> str:
        """The key of an object, empty where it is none of ours."""
        key = name.removeprefix(self._prefix).replace("./", "/")
        try:
            return check_key(key) if self._prefix + _written(key) == name else ""
        except StoreError:
            return ""


def _written(key: str) -> str:
    return key.replace("/", "./")


def _blob(key: str, item: "Object") -> Blob:
    modified = item.last_modified.timestamp() if item.last_modified else 0.0
    return Blob(key=key, size=item.size or 0, content_type=item.content_type or "", modified=modified)


def _close(opening: "asyncio.Future[BaseHTTPResponse]") -> None:
    """Close what was opened for somebody who left."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _close_read(response: "BaseHTTPResponse", ended: "asyncio.Future[bytes]") -> None:
    """Close what was being read by somebody who left; what came of the last chunk is of no use any more."""
    if not ended.cancelled():
        ended.exception()
    response.close()


def _turns(s3: "S3", what: str, most: int) -> Turns:
    return Turns(f"{what} of S3 {s3.where()} ({most} at once)", most, wait_s=s3.wait_s, most_waiting=s3.most_waiting)
