"""Lines of those who wait for the same session in this daemon: first come, first served."""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class Place:
    """A place in a line."""

    def __init__(self) -> None:
        self._come = asyncio.Event()

    @property
    def come(self) -> bool:
        """Whether it is the first in its line."""
        return self._come.is_set()

    async def wait(self) -> None:
        """Wait until all who came before have left."""
        await self._come.wait()

    def give(self) -> None:
        """It is the first now."""
        self._come.set()


class Lines:
    """A line per key."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[Place]] = {}

    @contextmanager
    def join(self, key: str) -> Iterator[Place]:
        """Stand in the line of a key while the block lasts; where `key` is empty there is none to stand in."""
        place = Place()
        if not key:
            place.give()
            yield place
            return
        line = self._lines.setdefault(key, deque())
        line.append(place)
        line[0].give()
        try:
            yield place
        finally:
            line.remove(place)
            if line:
                line[0].give()
            else:
                del self._lines[key]
