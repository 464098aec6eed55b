"""Standard input of an interactive job, on its way from whoever sends it to the sandbox that the job has, or will have."""

import asyncio
from collections.abc import Awaitable, Callable

from .errors import OverLimit

Write = Callable[[bytes, bool], Awaitable[None]]
"""Passes on a piece, and whether it is the last one; waits while the program reads too slowly."""


class Stdin:
    """Keeps what comes before the job has started, and passes on what comes then: in order, as fast as the program reads."""

    def __init__(self, most_bytes: int) -> None:
        """`most_bytes`: kept until the job starts."""
        self._most_bytes = most_bytes
        self._kept = bytearray()
        self._ended = False
        self._write: Write | None = None
        self._turn = asyncio.Lock()

    async def feed(self, data: bytes, *, end: bool = False) -> None:
        """Take a piece; `end` after the last of it. What comes after that is dropped. Raises OverLimit."""
        async with self._turn:
            if self._ended:
                return
            if self._write is None and len(self._kept) + len(data) > self._most_bytes:
                raise OverLimit(f"stdin: {self._most_bytes} bytes are kept until the job starts (limits.input_bytes): send the rest later")
            self._ended = end
            if self._write is None:
                self._kept += data
            else:
                await self._write(data, end)

    def open(self, write: Write) -> tuple[bytes, bool]:
        """The job has started: returns what was kept, and whether that is all; `write` is called with what comes then."""
        self._write = write
        kept, self._kept = bytes(self._kept), bytearray()
        return kept, self._ended
