"""What the watch has shown of one pod so far, for those who wait for something of it."""

import asyncio
from collections.abc import Callable

from ...errors import SandboxError
from . import condition
from .cluster import Object
from .condition import End


class Sighting:
    """One sandbox's pod, from before it is made until after it is gone."""

    def __init__(self) -> None:
        self.pod: Object = {}
        self.on_end: Callable[[str], None] = lambda _: None
        """Called once, when the pod has ended, with the reason."""
        self._end: End | None = None
        self._changed = asyncio.Event()

    def see(self, pod: Object, gone: bool) -> None:
        """The watch has shown it."""
        self.pod = pod
        if self._end is None:
            self._end = condition.ended(pod) or (End("its pod was deleted") if gone else None)
            if self._end is not None:
                self.on_end(self._end.reason)
        self._changed.set()
        self._changed = asyncio.Event()

    async def address(self) -> str:
        """Wait until the agent can be reached; returns where. Raises SandboxError where that can't be any more."""
        while not (found := condition.address(self.pod)):
            if self._end is not None:
                raise SandboxError(self._end.reason)
            if trouble := condition.trouble(self.pod):
                raise SandboxError(trouble)
            await self._changed.wait()
        return found

    async def end(self) -> End:
        """Wait until it has ended; returns how."""
        while self._end is None:
            await self._changed.wait()
        return self._end

    def waits_for(self) -> str:
        """Why it has not started yet, as far as is known."""
        return condition.waits_for(self.pod)
