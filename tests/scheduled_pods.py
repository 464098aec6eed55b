"""A scheduler over pods, and what is looked at in them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

import cluster_fixture
from cluster_fixture import LIMITS, START_S
from conftest import bundled_languages
from runnerd import Event, Job, Output, Result, new_id
from runnerd.executors.pods.cluster import Cluster, Object
from runnerd.executors.pods.executor import PodExecutor, open_pods
from runnerd.limits import LimitSettings
from runnerd.pool import PoolSettings
from runnerd.scheduler import Scheduler, SchedulerSettings, open_scheduler
from stores import store

PY = bundled_languages()["py"]


@asynccontextmanager
async def jobs_in(
    config: str,
    cluster: Cluster,
    warm: int = 1,
    slots: int = 4,
    pool: PoolSettings | None = None,
    limits: LimitSettings = LIMITS,
    **changes: Any,
) -> AsyncIterator[tuple[Scheduler, PodExecutor]]:
    """A scheduler over pods in the namespace of `cluster`."""
    languages = {"py": msgspec.structs.replace(PY, warm=warm)}
    settings = cluster_fixture.settings(config, cluster.namespace, **changes)
    async with open_pods(settings, limits, START_S) as executor, store("memory").open_kv() as kv:
        opening = open_scheduler(executor, languages, kv, limits, SchedulerSettings(slots=slots, queue_ttl_s=600), pool or PoolSettings())
        async with opening as scheduler:
            yield scheduler, executor


def job(code: str, **fields: Any) -> Job:
    return Job(**({"id": new_id(), "tenant": "t", "lang": "py", "code": code} | fields))


async def result(scheduler: Scheduler, job: Job) -> Result:
    *_, last = [event async for event in scheduler.submit(job)]
    assert isinstance(last, Result)
    return last


def names(pods: list[Object]) -> set[str]:
    return {pod["metadata"]["name"] for pod in pods}


def standing(pods: list[Object]) -> set[str]:
    """Names of pods that run."""
    return names([pod for pod in pods if pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]])


async def first_output(events: AsyncIterator[Event]) -> None:
    async for event in events:
        if isinstance(event, Output):
            return
    raise AssertionError("no output")
