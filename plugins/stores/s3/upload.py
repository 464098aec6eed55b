"""A blob in parts: some are on their way to the server while the next one comes.

The library has this only for what it reads itself, in a thread, part after part. Its steps are not public there: they are used
here and nowhere else.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator

from minio.datatypes import Part

from runnerd import StoreError

from .bucket import AT_ONCE, Bucket

MOST_PARTS = 10_000


class Upload:
    """One upload; nothing of it is an object before `complete`."""

    def __init__(self, bucket: Bucket, name: str, content_type: str) -> None:
        self._bucket = bucket
        self._name = name
        self._content_type = content_type
        self._id = ""
        self._parts: list[Part] = []
        self._sending: deque[asyncio.Future[str]] = deque()

    async def begin(self) -> None:
        """Have the server expect parts. Raises StoreError."""
        name = self._name
        headers: dict[str, str | list[str] | tuple[str]] = {"Content-Type": self._content_type}
        creating = self._bucket.begin(lambda client, bucket: client._create_multipart_upload(bucket, name, headers))
        try:
            self._id = await self._bucket.outcome(creating)
        except asyncio.CancelledError:
            await self._bucket.ended(creating)
            if not creating.exception():
                self._id = creating.result()
                await self.abort()
            raise

    async def add(self, part: bytes) -> None:
        """Send a part, once there is room for it. Raises StoreError."""
        if len(self._sending) == AT_ONCE:
            await self._sent()
        number = len(self._parts) + len(self._sending) + 1
        if number > MOST_PARTS:
            raise StoreError(f"{self._name}: larger than {MOST_PARTS} parts of {len(part)} bytes: raise part_bytes")
        name, id_ = self._name, self._id
        self._sending.append(self._bucket.begin(lambda client, bucket: client._upload_part(bucket, name, part, None, id_, number)))

    async def complete(self) -> None:
        """Make an object of all parts. Raises StoreError."""
        while self._sending:
            await self._sent()
        name, id_, parts = self._name, self._id, self._parts
        completing = self._bucket.begin(lambda client, bucket: client._complete_multipart_upload(bucket, name, id_, parts))
        try:
            await self._bucket.outcome(completing)
        except BaseException:
            await self._bucket.ended(completing)
            raise

    async def abort(self) -> None:
        """Have the server forget all parts, once none is on its way any more."""
        for sending in self._sending:
            await self._bucket.ended(sending)
        name, id_ = self._name, self._id
        aborting = self._bucket.begin(lambda client, bucket: client._abort_multipart_upload(bucket, name, id_))
        await self._bucket.ended(aborting)

    async def _sent(self) -> None:
        etag = await self._bucket.outcome(self._sending[0])
        self._sending.popleft()
        self._parts.append(Part(len(self._parts) + 1, etag))


async def cut(chunks: AsyncIterator[bytes], part_bytes: int) -> AsyncGenerator[bytes]:
    """The chunks as parts of one size each; only the last is smaller."""
    waiting: list[bytes] = []
    size = 0
    async for chunk in chunks:
        waiting.append(chunk)
        size += len(chunk)
        while size >= part_bytes:
            over = size - part_bytes
            last = waiting[-1]
            waiting[-1] = last[: len(last) - over]
            part = b"".join(waiting)
            waiting, size = ([last[len(last) - over :]] if over else []), over
            yield part
            del part  # it is the server's now, and whoever waits here for the next chunk holds one part less
    if size:
        yield b"".join(waiting)
