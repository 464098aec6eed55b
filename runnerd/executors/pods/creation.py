"""Making pods and Jobs: an API that is away is asked again, for no job is to fail for what passes."""

import asyncio
import random
from collections.abc import Callable

from .cluster import Cluster, ClusterError, Object, Resource

FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 5.0
CONFLICT = 409


class Creation:
    """Creates objects, some at a time."""

    def __init__(self, cluster: Cluster, requests: int) -> None:
        self.problem = ""
        """Why the API can't be reached now; empty where it can."""
        self._cluster = cluster
        self._at_once = asyncio.Semaphore(requests)

    async def create(self, resource: Resource, body: Callable[[], Object]) -> None:
        """Create what `body` gives, as soon as the API can be reached. Raises ClusterError where it says no."""
        wait_s = FIRST_WAIT_S
        again = False
        while True:
            try:
                async with self._at_once:
                    await self._cluster.create(resource, body())
            except ClusterError as error:
                if error.code == CONFLICT and again:  # it was made, and only the answer was lost
                    return
                if error.code:
                    raise
                self.problem, again = str(error), True
            else:
                self.problem = ""
                return
            await asyncio.sleep(wait_s * random.uniform(0.5, 1))  # noqa: S311 - spreads the pods, no secret
            wait_s = min(LONGEST_WAIT_S, wait_s * 2)
