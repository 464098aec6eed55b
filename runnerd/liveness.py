"""Which daemons live: each keeps one key with a short life in the store, and writes it again long before that ends."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import structlog

from .errors import StoreError
from .job import new_id
from .nursery import open_nursery
from .store import KeyValues

log = structlog.get_logger("runnerd.liveness")

_BEATS = 3
"""How often the key is written within its life."""


class Liveness:
    """This daemon's name and sign of life, and whether others live. Made by `open_liveness`."""

    def __init__(self, kv: KeyValues, lease_s: float) -> None:
        self.by = new_id()
        """This daemon's name, new with each start."""
        self._kv = kv
        self._lease_s = lease_s

    async def alive(self, by: str) -> bool:
        """Whether a daemon lives, as far as the store knows. Raises StoreError."""
        return by == self.by or (bool(by) and await self._kv.get(_key(by)) is not None)

    async def beat(self) -> None:
        """Live for another `lease_s`. A store that fails is no reason to stop: then others may take this daemon for dead."""
        try:
            async with asyncio.timeout(self._lease_s):
                await self._kv.put(_key(self.by), b"", self._lease_s)
        except Exception as error:  # noqa: BLE001 - a store is a plugin: whatever it raises is a store that fails
            log.warning("no sign of life could be left", reason=str(error) or type(error).__name__)

    async def beats(self) -> None:
        """Leave signs of life, again and again."""
        while True:
            await asyncio.sleep(self._lease_s / _BEATS)
            await self.beat()

    async def end(self) -> None:
        """Be dead at once, for whoever waits for that."""
        try:
            async with asyncio.timeout(self._lease_s):
                await self._kv.delete(_key(self.by))
        except (StoreError, TimeoutError) as error:
            log.warning("the sign of life stays until it ends by itself", lease_s=self._lease_s, reason=str(error))


@asynccontextmanager
async def open_liveness(kv: KeyValues, lease_s: float) -> AsyncGenerator[Liveness, None]:
    """Live while the block is open. `lease_s`: how long after its last sign of life a daemon counts as dead, in seconds."""
    liveness = Liveness(kv, lease_s)
    await liveness.beat()
    async with open_nursery() as tasks:
        beats = tasks.create_task(liveness.beats())
        try:
            yield liveness
        finally:
            beats.cancel()
            await liveness.end()


def _key(by: str) -> str:
    return f"daemons/{by}"
