"""Turns at what there are only so many of: who finds none waits, not longer than a time, and not too many at once."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from .errors import StoreError


class Turns:
    """So many turns at once, such as a store's connections."""

    def __init__(self, name: str, most: int, *, wait_s: float, most_waiting: int) -> None:
        """`name`: of what, for errors. `most`: turns at once. `wait_s`: longest wait for one. `most_waiting`: how many may wait."""
        self._name = name
        self._free = asyncio.Semaphore(most)
        self._wait_s = wait_s
        self._most_waiting = most_waiting
        self._waiting = 0

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[None, None]:
        """One turn, while the block is open. Raises StoreError where none comes free in time, or too many wait."""
        if self._free.locked():
            await self._wait()
        else:
            await self._free.acquire()
        try:
            yield
        finally:
            self._free.release()

    async def _wait(self) -> None:
        if self._waiting >= self._most_waiting:
            raise StoreError(f"{self._name}: {self._waiting} wait already")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._wait_s):
                await self._free.acquire()
        except TimeoutError:
            raise StoreError(f"{self._name}: none came free within {self._wait_s:g} s") from None
        finally:
            self._waiting -= 1
