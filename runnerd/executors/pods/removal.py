"""Removing pods and Jobs, off everybody's path and for certain: what the API does not take now is tried again."""

import asyncio
from asyncio import TaskGroup

import structlog

from .cluster import Cluster, ClusterError, Resource

FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 10.0

log = structlog.get_logger("runnerd.pods")


class Removal:
    """Removes objects, some at a time."""

    def __init__(self, cluster: Cluster, requests: int, tasks: TaskGroup) -> None:
        self._cluster = cluster
        self._at_once = asyncio.Semaphore(requests)
        self._tasks = tasks
        self._pending: dict[str, asyncio.Task[None]] = {}

    @property
    def pending(self) -> int:
        """Objects that are still to be removed."""
        return len(self._pending)

    def begin(self, resource: Resource, name: str) -> asyncio.Task[None]:
        """Have an object removed."""
        task = self._tasks.create_task(self._remove(resource, name))
        self._pending[name] = task
        task.add_done_callback(lambda _: self._pending.pop(name, None))
        return task

    async def remove(self, resource: Resource, name: str) -> None:
        """Remove an object; returns once the API has taken it. It goes on where the caller waits no longer."""
        await asyncio.shield(self.begin(resource, name))

    async def stop(self, patience_s: float) -> None:
        """Wait until all is removed, up to some seconds; what is left then is removed with the daemon's Lease."""
        if self._pending:
            await asyncio.wait(self._pending.values(), timeout=patience_s)
        for task in self._pending.values():
            task.cancel()

    async def _remove(self, resource: Resource, name: str) -> None:
        wait_s = FIRST_WAIT_S
        while True:
            try:
                async with self._at_once:
                    # The agent has ended by itself by now, or hangs: there is nothing to wait for.
                    await self._cluster.delete(resource, name, gracePeriodSeconds=0, propagationPolicy="Background")
            except ClusterError as error:
                if wait_s == FIRST_WAIT_S:
                    log.warning("a sandbox is not removed yet", name=name, reason=str(error))
                await asyncio.sleep(wait_s)
                wait_s = min(LONGEST_WAIT_S, wait_s * 2)
            else:
                return
