"""Jobs that ask to be started again after a timeout or for want of memory."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fake_executor import FakeExecutor, FakeSandbox, wait_until
from runnerd import Blobs, Interrupted, KeyValues, Language, Result, Started
from scheduling import Frozen, events, job, result, scheduling
from stores import store
from test_sessions import OWNER, door, sessions


@pytest.mark.parametrize("owned", [True, False])
async def test_it_is_started_again_and_its_events_begin_anew(owned: bool) -> None:
    executor = FakeExecutor()
    async with scheduling(executor) as scheduler:
        *seen, end = await events(scheduler, job("end timeout 2", stream=True, retry_on=("timeout",)), owned)
        assert [event.start for event in seen if isinstance(event, Started)] == [1, 2, 3]
        assert isinstance(end, Result)
        assert (end.status, end.starts) == ("ok", 3)


@pytest.mark.parametrize("owned", [True, False])
@pytest.mark.parametrize(("status", "retry_on", "starts"), [("oom", ("timeout", "oom"), 3), ("oom", ("timeout",), 1), ("timeout", (), 1)])
async def test_its_last_start_is_its_result(owned: bool, status: str, retry_on: Any, starts: int) -> None:
    executor = FakeExecutor()
    async with scheduling(executor) as scheduler:
        it = job(f"end {status} 9", retry_on=retry_on)
        end = await result(scheduler, it, owned)
        assert (end.status, end.reason, end.starts, executor.starts[it.id]) == (status, "so it goes", starts, starts)
        if owned:
            assert await result(scheduler, it, owned) == end
            assert executor.starts[it.id] == starts


class OneByOne(FakeExecutor):
    """Each sandbox of Go has to be allowed: the first is."""

    @asynccontextmanager
    async def sandbox(self, language: Language) -> AsyncGenerator[FakeSandbox, None]:
        async with super().sandbox(language) as sandbox:
            if language.code == "go":
                self.may_start.clear()
            yield sandbox

    async def between(self, job_id: str) -> None:
        """Wait until the job was started once, and waits for its next sandbox."""
        await wait_until(lambda: self.starts[job_id] == 1 and not self.running[job_id], "its first start has ended")


GO: dict[str, Any] = {"lang": "go", "id": "mine"}


async def test_a_killed_daemons_starts_count() -> None:
    executor = OneByOne()
    it = job("end timeout 9", retry_on=("timeout",), **GO)
    async with store("memory").open_kv() as kv:
        frozen = Frozen(kv)
        async with scheduling(executor, frozen, record_patience_s=0.01) as scheduler:
            task = asyncio.create_task(result(scheduler, it, owned=True))
            await executor.between("mine")
            frozen.frozen = True  # from here on it writes no more, as if it were killed
            task.cancel()
        executor = FakeExecutor()
        async with scheduling(executor, kv) as scheduler:
            end = await result(scheduler, it, owned=True)
        assert (end.status, end.starts, executor.starts["mine"]) == ("timeout", 3, 2)


async def test_a_drained_daemon_gives_it_back_and_the_start_that_ended_counts() -> None:
    executor = OneByOne()
    it = job("end timeout 9", retry_on=("timeout",), **GO)
    async with store("memory").open_kv() as kv:
        async with scheduling(executor, kv, grace_s=0.0) as scheduler:
            task = asyncio.create_task(result(scheduler, it, owned=True))
            await executor.between("mine")
            await scheduler.drain()
            with pytest.raises(Interrupted):
                await task
        executor = FakeExecutor()
        async with scheduling(executor, kv) as scheduler:
            end = await result(scheduler, it, owned=True)
        assert (end.status, end.starts, executor.starts["mine"]) == ("timeout", 3, 2)


async def test_cancelled_between_its_starts() -> None:
    executor = OneByOne()
    async with scheduling(executor) as scheduler:
        task = asyncio.create_task(result(scheduler, job("end oom 9", retry_on=("oom",), **GO), owned=True))
        await executor.between("mine")
        cancelled = await scheduler.cancel("t", "mine")
        assert await task == cancelled
        assert cancelled is not None
        assert (cancelled.status, cancelled.starts, executor.starts["mine"]) == ("cancelled", 1, 1)


async def test_without_another_sandbox_in_time_the_start_that_was_is_the_result() -> None:
    executor = OneByOne()
    async with scheduling(executor, queue_ttl_s=0.2) as scheduler:
        end = await result(scheduler, job("end timeout 9", retry_on=("timeout",), **GO), owned=True)
        assert (end.status, end.starts, executor.starts["mine"]) == ("timeout", 1, 1)


async def test_without_another_sandbox_at_all_the_start_that_was_is_the_result() -> None:
    executor = OneByOne()
    async with scheduling(executor) as scheduler:
        task = asyncio.create_task(result(scheduler, job("end timeout 9", retry_on=("timeout",), **GO), owned=True))
        await executor.between("mine")
        executor.fails = lambda: True
        executor.may_start.set()
        assert ((await task).status, (await task).starts, executor.starts["mine"]) == ("timeout", 1, 1)


@pytest.mark.parametrize("owned", [True, False])
async def test_a_start_that_another_follows_leaves_nothing_in_the_session(kv: KeyValues, blobs: Blobs, owned: bool) -> None:
    async with sessions(kv, blobs) as scheduler:
        session = (await result(scheduler, job("add 1", session=""))).session
        end = await result(scheduler, job("add 1; write a.txt x; end oom 2", session=session, retry_on=("oom",)), owned)
        assert (end.status, end.starts, [file.name for file in end.stored]) == ("ok", 3, ["a.txt"])
        last = await result(scheduler, job("add 1; write b.txt x; end oom 9", session=session, retry_on=("oom",)), owned)
        assert (last.status, last.starts, [file.name for file in last.stored]) == ("oom", 3, ["b.txt"])
        after = await result(scheduler, job("add 1; ls", session=session))
        assert after.stdout == "3\na.txt b.txt\n"
        seen = await door(scheduler).find(OWNER, session)
        assert ({file.name for file in seen.files}, seen.older) == ({"a.txt", "b.txt"}, ())
