"""A scheduler for tests, over an executor in memory, that leaves nothing behind."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from fake_executor import FakeExecutor, a_language
from runnerd import Blobs, Event, Job, KeyValues, Result, StoreError, new_id
from runnerd.limits import LimitSettings
from runnerd.pool import PoolSettings
from runnerd.scheduler import Scheduler, SchedulerSettings, open_scheduler
from runnerd.workspace import WorkspaceSettings
from stores import store

LANGUAGES = {"py": a_language("py", warm=2, warmup="python"), "js": a_language("js", warm=1), "go": a_language("go", warm=0)}
LEASE_S = 0.5
"""How long one waits here for a daemon that can't write any more to count as dead."""
POOL = PoolSettings(backoff_s=0.001, backoff_most_s=0.004)


@asynccontextmanager
async def scheduling(
    executor: FakeExecutor,
    kv: KeyValues | None = None,
    pool: PoolSettings = POOL,
    blobs: Blobs | None = None,
    workspaces: WorkspaceSettings | None = None,
    limits: LimitSettings | None = None,
    **settings: Any,
) -> AsyncGenerator[Scheduler, None]:
    """A scheduler; afterwards nothing may be left of its jobs and sandboxes."""
    async with store("memory").open_kv() as memory:
        opening = open_scheduler(
            executor, LANGUAGES, kv or memory, limits, SchedulerSettings(**({"lease_s": LEASE_S} | settings)), pool, blobs, workspaces
        )
        async with opening as scheduler:
            yield scheduler
        assert executor.alive == 0
        assert all(sandbox.closed == 1 for sandbox in executor.closed)
        assert not +executor.running


def job(code: str = "hi", lang: str = "py", tenant: str = "t", **fields: Any) -> Job:
    return Job(**({"id": new_id(), "tenant": tenant, "lang": lang, "code": code} | fields))


async def events(scheduler: Scheduler, job: Job, owned: bool = False) -> list[Event]:
    return [event async for event in scheduler.submit(job, owned=owned)]


async def result(scheduler: Scheduler, job: Job, owned: bool = False) -> Result:
    *_, last = await events(scheduler, job, owned)
    assert isinstance(last, Result)
    return last


class Frozen:
    """A store that can't be written any more once it is frozen."""

    def __init__(self, kv: KeyValues) -> None:
        self.frozen = False
        self._kv = kv

    @property
    def value_bytes(self) -> int:
        return self._kv.value_bytes

    def __getattr__(self, name: str) -> Any:
        async def ask(*args: Any, **options: Any) -> Any:  # a method may be looked up long before it is called
            if self.frozen:
                raise StoreError("frozen")
            return await getattr(self._kv, name)(*args, **options)

        return ask
