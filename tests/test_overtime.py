"""An agent that no longer answers: its job's sandbox is lost once its time is over, and the job does not wait for ever."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import msgspec
import pytest

from conftest import LOCAL
from fake_executor import wait_until
from runnerd import File, Job, Language, SandboxLost
from runnerd.executors import framing
from runnerd.executors.local import LocalExecutor, open_local
from runnerd.executors.wire import Wire
from runnerd.limits import LimitSettings
from runnerd.pool import PoolSettings
from runnerd.scheduler import Scheduler, SchedulerSettings, open_scheduler
from scheduling import result
from stores import store

LIMITS = LimitSettings(wall_s=1)
SILENT = "the agent has not answered in time"


@asynccontextmanager
async def serving(py: Language, overtime_s: float = 0.5) -> AsyncGenerator[tuple[Scheduler, LocalExecutor]]:
    warm = msgspec.structs.replace(py, warm=1)
    local = msgspec.structs.replace(LOCAL, overtime_s=overtime_s, state_s=0.1)
    async with open_local(local, 2, [py]) as executor, store("memory").open_kv() as kv:
        opening = open_scheduler(executor, {"py": warm}, kv, LIMITS, SchedulerSettings(slots=1), PoolSettings())
        async with opening as scheduler:
            await wait_until(lambda: scheduler.health()["pools"]["py"]["warm"] == 1, "it is warm")
            yield scheduler, executor


@contextmanager
def stopped(executor: LocalExecutor) -> Iterator[None]:
    pid = executor.agent_pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def job(code: str, **fields: object) -> Job:
    return msgspec.structs.replace(Job(id="job", tenant="t", lang="py", code=code, retry=False), **fields)


LATE = {
    "before the job comes": job("print('hi')"),
    "before it has all files": job("print('hi')", files=(File(name="large", data=bytes(4 << 20)),)),
}


@pytest.mark.parametrize("when", LATE)
async def test_one_that_stops(py: Language, when: str) -> None:
    async with serving(py) as (scheduler, executor):
        with stopped(executor):
            end = await result(scheduler, LATE[when])
        assert (end.status, end.reason.split(": ")[-1]) == ("dead", SILENT)
        assert (await result(scheduler, job("print('again')", id="next", retry=True))).stdout == "again\n"


async def test_one_that_stops_while_the_job_runs(py: Language) -> None:
    async with serving(py) as (scheduler, executor):
        running = asyncio.create_task(result(scheduler, job("import time\ntime.sleep(5)")))
        await wait_until(lambda: scheduler.health()["running"] == 1, "it runs")
        with stopped(executor):
            end = await running
        assert (end.status, end.reason.split(": ")[-1]) == ("dead", SILENT)


async def test_one_that_answers_late_is_heard(py: Language) -> None:
    async with serving(py, overtime_s=30) as (scheduler, executor):
        running = asyncio.create_task(result(scheduler, job("print('hi')")))
        with stopped(executor):
            await asyncio.sleep(0.5)
        assert (await running).stdout == "hi\n"


async def test_only_waiting_for_the_agent_counts() -> None:
    wire, loop = Wire(), asyncio.get_running_loop()
    wire.patience_s = 60.0
    began = loop.time()
    for number in range(3):
        loop.call_later(0.05, wire.data_received, framing.pack({"type": "output", "number": number}))
        assert (await wire.receive())[0]["number"] == number
        await asyncio.sleep(0.1)  # what we do with it
    assert 0.1 < 60 - wire.patience_s < loop.time() - began - 0.25
    wire.patience_s = 0.05
    with pytest.raises(SandboxLost, match=SILENT):
        await wire.receive()


async def test_what_came_while_this_process_stood_still_is_heard() -> None:
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    transport, wire = await loop.create_connection(Wire, sock=ours)
    try:
        wire.patience_s = 0.05
        for number in range(3):  # after the first there is no patience left
            waiting = asyncio.create_task(wire.receive())
            await asyncio.sleep(0)
            theirs.sendall(framing.pack({"type": "output", "number": number}))
            time.sleep(0.1)  # the loop is to stand still for longer than its patience
            assert (await waiting)[0]["number"] == number
        assert wire.patience_s == 0
    finally:
        transport.abort()
        theirs.close()


async def test_one_that_does_not_read_is_waited_for_as_long() -> None:
    wire = Wire()
    wire.patience_s = 0.05
    wire.pause_writing()
    await wire.send(framing.pack({"type": "file"}))
    with pytest.raises(SandboxLost, match=SILENT):
        await wire.receive()


async def test_an_agent_that_hangs_makes_way_for_another(py: Language, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runnerd.executors.local.HANGS_S", 2.0)
    async with serving(py) as (scheduler, executor):
        hung = executor.agent_pid
        assert hung is not None
        os.kill(hung, signal.SIGSTOP)
        try:
            ends = await asyncio.gather(*(result(scheduler, job("print('hi')", id=f"j{number}", retry=True)) for number in range(3)))
            await wait_until(lambda: executor.agent_pid != hung, "there is another agent")
        finally:
            with suppress(ProcessLookupError):
                os.kill(hung, signal.SIGCONT)
        assert [(end.status, end.stdout) for end in ends] == [("ok", "hi\n")] * 3
        assert executor.description["level"] == executor.level


async def test_an_agent_is_heard_after_a_pause_of_ours(py: Language, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runnerd.executors.local.HANGS_S", 1.5)
    async with serving(py) as (scheduler, executor):
        agent = executor.agent_pid
        for _ in range(2):
            time.sleep(3)  # as a process that is paused, or much too busy
            assert (await result(scheduler, job("print('hi')", id=f"j{time.monotonic()}"))).stdout == "hi\n"
        assert executor.agent_pid == agent
