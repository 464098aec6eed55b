"""What becomes of jobs whose agent dies: another start with the next agent, however few of them there are."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import msgspec
import pytest

from conftest import LOCAL
from fake_executor import wait_until
from runnerd import Job, Language, SandboxError, new_id
from runnerd.executors.local import LocalExecutor, open_local
from runnerd.pool import PoolSettings
from runnerd.scheduler import Scheduler, SchedulerSettings, open_scheduler
from scheduling import result
from stores import store

SLOTS = 3
CODE = "import time\nprint('begun', flush=True)\ntime.sleep(2)\nprint('done')"


@asynccontextmanager
async def serving(py: Language) -> AsyncGenerator[tuple[Scheduler, LocalExecutor]]:
    """A scheduler over a real agent, with warm sandboxes for all slots."""
    warm = msgspec.structs.replace(py, warm=SLOTS)
    async with open_local(LOCAL, 2 * SLOTS, [py]) as executor, store("memory").open_kv() as kv:
        opening = open_scheduler(executor, {"py": warm}, kv, None, SchedulerSettings(slots=SLOTS), PoolSettings())
        async with opening as scheduler:
            yield scheduler, executor


def kill(executor: LocalExecutor) -> int:
    pid = executor.agent_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    return pid


@pytest.mark.parametrize("jobs", [1, 2, SLOTS])
async def test_jobs_get_another_start_each(py: Language, jobs: int) -> None:
    async with serving(py) as (scheduler, executor):
        await wait_until(lambda: scheduler.health()["pools"]["py"]["warm"] == SLOTS, "all are warm")
        running = [asyncio.create_task(result(scheduler, Job(id=new_id(), tenant="t", lang="py", code=CODE))) for _ in range(jobs)]
        await wait_until(lambda: scheduler.health()["running"] == jobs, "they run")
        await wait_until(lambda: scheduler.health()["pools"]["py"]["warm"] == SLOTS, "the pool is filled again, by this agent")
        kill(executor)
        ends = await asyncio.gather(*running)
        assert [(end.status, end.stdout, end.starts) for end in ends] == [("ok", "begun\ndone\n", 2)] * jobs


async def test_a_sandbox_that_is_wanted_meanwhile_is_the_next_agents(py: Language) -> None:
    async with open_local(LOCAL, 1, [py]) as executor:
        before = kill(executor)
        async with executor.sandbox(py):
            assert executor.agent_pid != before


async def test_an_agent_that_does_not_start_again_is_an_error_and_then_it_does(py: Language) -> None:
    async with open_local(LOCAL, 1, [py]) as executor:
        python = executor.python
        executor.python = "/bin/false"
        before = kill(executor)
        with pytest.raises(SandboxError, match="no agent starts: the agent ended without a word"):
            async with executor.sandbox(py):
                pass
        executor.python = python
        await wait_until(lambda: executor.agent_pid not in (None, before), "another agent runs")
        async with executor.sandbox(py):
            pass
