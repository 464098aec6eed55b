"""Contents of a workspace on their way into a sandbox: read ahead from the store, a few at a time, sent one after the other."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import cast

from ..agent.frames import CHUNK, Header
from ..agent.slate import Slate
from ..errors import StoreError
from ..nursery import open_nursery
from ..spec import Content
from .framing import pack
from .wire import Wire

AHEAD = 4
"""Contents that are read at once: the first of them is sent, the others wait with their first chunk in hand."""

Piece = bytes | Exception | None
"""A chunk, why there is none, or the end."""


async def send(wire: Wire, contents: list[tuple[Header, Content]], slate: Slate | None = None) -> None:
    """Send contents in frames with their headers. Ends early where the agent has something to say. Raises StoreError.

    `slate`: where a snapshot goes, of which the agent is told only that it is there.

    In memory is never more than two chunks of each content that is read, and what the wire holds.
    """
    async with open_nursery() as tasks:
        waiting = iter(contents)
        readings: deque[_Reading] = deque()
        try:
            while True:
                for header, content in _some(waiting, AHEAD - len(readings)):
                    reading = _Reading(header)
                    reading.task = tasks.create_task(reading.read(content))
                    readings.append(reading)
                if not readings or wire.heard:
                    return
                if slate is not None and readings[0].header["type"] == "state":
                    await readings[0].hand_over(wire, slate)
                else:
                    await readings[0].send(wire)
                readings.popleft().cancel()  # it may have been cut short
        finally:
            for reading in readings:
                reading.cancel()


def _some(waiting: Iterator[tuple[Header, Content]], most: int) -> Iterator[tuple[Header, Content]]:
    for _, item in zip(range(most), waiting, strict=False):
        yield item


class _Reading:
    """One content that is being read."""

    def __init__(self, header: Header) -> None:
        self.task: asyncio.Task[None] | None = None
        self.header = header
        self._pieces: asyncio.Queue[Piece] = asyncio.Queue(1)

    async def read(self, content: Content) -> None:
        """Read until the end, as fast as the pieces are sent."""
        try:
            async with aclosing(cast(AsyncGenerator[bytes, None], content.read())) as chunks:
                async for chunk in chunks:
                    await self._pieces.put(chunk)
        except KeyError:
            await self._pieces.put(StoreError(f"{content.name or 'the state'} of the session is gone from the store"))
        except Exception as error:  # noqa: BLE001 - raised again by whoever sends
            await self._pieces.put(error)
        else:
            await self._pieces.put(None)

    async def send(self, wire: Wire) -> None:
        """Send all pieces, the last of them marked as such."""
        more = {**self.header, "more": True}
        last: bytes | memoryview = b""
        while not wire.heard:
            piece = await self._next()
            if piece is None:
                await wire.send(pack(self.header, last))
                return
            view = memoryview(piece)
            for start in range(0, len(piece), CHUNK):
                if last:
                    await wire.send(pack(more, last))
                last = view[start : start + CHUNK]

    async def hand_over(self, wire: Wire, slate: Slate) -> None:
        """Write all pieces to where the sandbox can read them, and say so."""
        while not wire.heard:
            piece = await self._next()
            if piece is None:
                await wire.send(pack({**self.header, "size": slate.size}))
                return
            slate.append(piece)

    async def _next(self) -> bytes | None:
        piece = await self._pieces.get()
        if isinstance(piece, Exception):
            raise piece
        return piece

    def cancel(self) -> None:
        """Read no more."""
        if self.task is not None:
            self.task.cancel()
