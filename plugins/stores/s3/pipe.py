"""Bytes on their way from the event loop to a thread that reads them as a file: not more than so many at a time."""

import asyncio
import io
import threading
from collections import deque


class Pipe:
    """`send`, `end` and `fail` are called in the event loop, `read` in the thread."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Event()
        self._changed = threading.Condition()
        self._chunks: deque[bytes] = deque()
        self._bytes = 0
        self._ended = False
        self._failed = False

    async def send(self, chunk: bytes) -> None:
        """Hand over some bytes, once there is room. Returns as well where nobody reads any more."""
        with self._changed:
            if chunk:
                self._chunks.append(bytes(chunk))
                self._bytes += len(chunk)
                self._changed.notify()
            self._room.clear()
            if self._bytes < self._most_bytes or self._ended:
                return
        await self._room.wait()

    def end(self) -> None:
        """Nothing more comes, or nobody reads any more."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._room.set()

    def fail(self) -> None:
        """What was sent is not whole: let the reader fail."""
        with self._changed:
            self._failed = True
            self._changed.notify()

    def read(self, size: int) -> bytes:
        """So many bytes; fewer are the last ones. Raises OSError where they will not be whole."""
        # In one piece: the library adds up smaller ones by copying all that it has, each time. BytesIO gives away its own bytes.
        gathered = io.BytesIO()
        while size and (piece := self._take(size)):
            size -= gathered.write(piece)
        return gathered.getvalue()

    def _take(self, most: int) -> bytes:
        with self._changed:
            self._changed.wait_for(lambda: self._chunks or self._ended or self._failed)
            if self._failed:
                raise OSError("the sender gave up")
            if not self._chunks:
                return b""
            chunk = self._chunks.popleft()
            if len(chunk) > most:
                self._chunks.appendleft(chunk[most:])
                chunk = chunk[:most]
            self._bytes -= len(chunk)
            if self._bytes < self._most_bytes:
                self._loop.call_soon_threadsafe(self._room.set)
        return chunk
