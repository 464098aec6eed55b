"""Knowing all objects of one kind without asking again and again: list them once, then watch what changes.

list ── watch from its version ── the API ends the watch: go on from the last version
 ^                │
 └── 410: the version is too old; or the API was away: after a wait that grows
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import aclosing

import structlog

from .cluster import Cluster, ClusterError, Object, Resource

FIRST_WAIT_S = 0.2
"""Wait after a first failure; doubled with each further one, and jittered."""
LONGEST_WAIT_S = 10.0
GONE = 410

log = structlog.get_logger("runnerd.pods")


class Watching:
    """The objects with some labels, as far as the API has told. `seen` is called with each that came, changed or went."""

    def __init__(self, cluster: Cluster, resource: Resource, labels: str, seen: Callable[[Object, bool], None]) -> None:
        """`seen(object, gone)`."""
        self.objects: dict[str, Object] = {}
        """By name."""
        self.problem = ""
        """Why nothing is heard now; empty where the watch stands."""
        self.relisted: Callable[[], None] = lambda: None
        """Called after each list: what happened before it may have been missed."""
        self._cluster = cluster
        self._resource = resource
        self._labels = labels
        self._seen = seen
        self._listed = asyncio.Event()
        self._failures = 0

    async def listed(self) -> None:
        """Wait for the first list."""
        await self._listed.wait()

    async def run(self) -> None:
        """Watch for ever, whatever becomes of the API."""
        while True:
            try:
                version = await self._list()
                while True:
                    version = await self._watch(version)
            except ClusterError as error:
                if error.code != GONE:
                    await self._wait(error)

    async def _list(self) -> str:
        found, version = await self._cluster.list(self._resource, labels=self._labels)
        self._stands()
        now = {item["metadata"]["name"]: item for item in found}
        for name in [name for name in self.objects if name not in now]:
            self._tell(self.objects[name], gone=True)
        for item in now.values():
            self._tell(item, gone=False)
        self.relisted()
        self._listed.set()
        return version

    async def _watch(self, version: str) -> str:
        """Take events until the API ends the watch; returns the version to go on from."""
        async with aclosing(self._cluster.watch(self._resource, self._labels, version)) as events:
            async for event in events:
                self._stands()
                item = event["object"]
                version = item["metadata"]["resourceVersion"]
                if event["type"] != "BOOKMARK":
                    self._tell(item, gone=event["type"] == "DELETED")
        return version

    def _tell(self, item: Object, *, gone: bool) -> None:
        name = item["metadata"]["name"]
        if gone:
            self.objects.pop(name, None)
        else:
            self.objects[name] = item
        self._seen(item, gone)

    def _stands(self) -> None:
        if self.problem:
            log.info("the watch stands again", resource=self._resource.plural)
        self.problem, self._failures = "", 0

    async def _wait(self, error: ClusterError) -> None:
        if not self.problem:
            log.warning("the watch is interrupted", resource=self._resource.plural, reason=str(error))
        self.problem = str(error)
        wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(self._failures, 30))
        self._failures += 1
        await asyncio.sleep(wait_s * random.uniform(0.5, 1))  # noqa: S311 - spreads the daemons, no secret
