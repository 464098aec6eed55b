"""Labels of pods whose jobs take a while, so that people see in the cluster what runs where. Never on a job's path."""

import asyncio
from asyncio import TaskGroup
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from ...job import Job
from . import manifest
from .cluster import PODS, Cluster, ClusterError
from .sighting import Sighting

log = structlog.get_logger("runnerd.pods")


class Marking:
    """Marks pods as leased once their job has run for `after_s`: what ends sooner costs no call of the API."""

    def __init__(self, cluster: Cluster, after_s: float, tasks: TaskGroup) -> None:
        self._cluster = cluster
        self._after_s = after_s
        self._tasks = tasks

    @contextmanager
    def lease(self, job: Job, sighting: Sighting) -> Iterator[None]:
        """The job runs in that pod while the block is open."""
        timer = asyncio.get_running_loop().call_later(self._after_s, self._begin, job, sighting)
        try:
            yield
        finally:
            timer.cancel()

    def _begin(self, job: Job, sighting: Sighting) -> None:
        self._tasks.create_task(self._mark(job, sighting.pod["metadata"]["name"]))

    async def _mark(self, job: Job, name: str) -> None:
        metadata = {"labels": {manifest.STATE: manifest.LEASED}, "annotations": {manifest.JOB: job.id, manifest.TENANT: job.tenant}}
        try:
            await self._cluster.merge(PODS, name, {"metadata": metadata})
        except ClusterError as error:
            log.debug("a pod is not labelled", name=name, job=job.id, reason=str(error))
