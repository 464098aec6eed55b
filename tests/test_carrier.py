"""How jobs end: started again, once for each id, cancelled at any moment."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from fake_executor import FakeExecutor, wait_until
from runnerd import Interrupted, Job, KeyValues, Result, Started, StoreError
from runnerd.record import Records
from scheduling import Frozen, events, job, result, scheduling
from stores import store


async def test_a_lost_sandbox_means_another_start() -> None:
    executor = FakeExecutor()
    async with scheduling(executor) as scheduler:
        it = job("lose 2", stream=True)
        *seen, end = await events(scheduler, it)
        assert [event.start for event in seen if isinstance(event, Started)] == [1, 2, 3]
        assert isinstance(end, Result)
        assert (end.status, end.starts) == ("ok", 3)


@pytest.mark.parametrize("owned", [True, False])
async def test_a_poison_job_dies_and_harms_nobody(owned: bool) -> None:
    executor = FakeExecutor()
    async with scheduling(executor) as scheduler:
        neighbours = [asyncio.create_task(result(scheduler, job("sleep 0.01"))) for _ in range(20)]
        it = job("lose")
        end = await result(scheduler, it, owned)
        assert (end.status, end.starts) == ("dead", 3)
        assert "the sandbox blew up" in end.reason
        assert executor.starts[it.id] == 3
        assert {(await neighbour).status for neighbour in neighbours} == {"ok"}
        if owned:
            assert await result(scheduler, it, owned) == end
            assert executor.starts[it.id] == 3


@pytest.mark.parametrize("code", ["lose", "crash", "nothing"])
async def test_retry_off_means_one_start(code: str) -> None:
    executor = FakeExecutor()
    async with scheduling(executor) as scheduler:
        it = job(code, retry=False)
        end = await result(scheduler, it)
        assert (end.status, end.starts, executor.starts[it.id]) == ("dead", 1, 1)
        assert "retry is off" in end.reason


async def test_no_sandbox_can_be_started() -> None:
    executor = FakeExecutor(fails=lambda: True)
    async with scheduling(executor) as scheduler:
        end = await result(scheduler, job())
        assert (end.status, end.starts) == ("dead", 0)
        assert "no room on this machine" in end.reason
        assert scheduler.health()["pools"]["py"]["failing"] == "no room on this machine"
        executor.fails = lambda: False
        assert (await result(scheduler, job())).status == "ok"


@pytest.mark.parametrize("kind", ["memory", "disk"])
async def test_fifty_of_one_id_run_once_and_answer_the_same(kind: str, tmp_path: Path) -> None:
    executor = FakeExecutor()
    async with store(kind, **({"path": str(tmp_path)} if kind == "disk" else {})).open_kv() as kv, scheduling(executor, kv) as scheduler:
        it = job("sleep 0.01", id="mine")
        answers = await asyncio.gather(*(result(scheduler, it, owned=True) for _ in range(50)))
        assert executor.starts["mine"] == 1
        assert all(answer == answers[0] for answer in answers)
        assert answers[0].status == "ok"
        assert await result(scheduler, it, owned=True) == answers[0], "from the record"
        assert await scheduler.status("t", "mine") == answers[0]
        assert await scheduler.cancel("t", "mine") == answers[0]
        assert executor.starts["mine"] == 1


async def test_an_id_with_another_body_is_rejected_while_it_runs_and_after() -> None:
    executor = FakeExecutor()
    async with scheduling(executor) as scheduler:
        it, other = job("wait", id="mine"), job("hi", id="mine")
        running = asyncio.create_task(result(scheduler, it, owned=True))
        await wait_until(lambda: executor.running["mine"] == 1, "it runs")
        assert await scheduler.status("t", "mine") == "running"
        for _ in range(2):
            end = await result(scheduler, other, owned=True)
            assert (end.status, end.reason[:38]) == ("rejected", "id: mine was used for another job: giv")
            executor.go.set()
            assert (await running).status == "ok"
        assert (await result(scheduler, structs.replace(other, tenant="else"), owned=True)).status == "ok"


async def test_joining_a_job_gets_its_events_too() -> None:
    executor = FakeExecutor()
    async with scheduling(executor, slots=1) as scheduler:
        busy = asyncio.create_task(result(scheduler, job("wait")))
        await wait_until(lambda: executor.running.total() == 1, "the slot is taken")
        it = job("stream 3", id="mine", stream=True)
        tasks = [asyncio.create_task(events(scheduler, it, owned=True)) for _ in range(3)]
        await wait_until(lambda: scheduler.health()["queued"] == 1, "one waits, others join")
        executor.go.set()
        await busy
        first, *others = [await task for task in tasks]
        assert len(first) == 5
        assert others == [first, first]


async def test_a_record_left_running_is_started_again_within_its_starts() -> None:
    """A daemon dies in the middle of each start; the id keeps its count."""
    executor = FakeExecutor()
    it = job("wait", id="mine")
    async with store("memory").open_kv() as kv:
        for start in (1, 2, 3):
            frozen = Frozen(kv)
            async with scheduling(executor, frozen, record_patience_s=0.01) as scheduler:
                task = asyncio.create_task(result(scheduler, it, owned=True))
                await wait_until(lambda start=start: executor.starts["mine"] == start, "it runs")  # type: ignore[misc]
                frozen.frozen = True  # from here on it writes no more, as if it were killed
                task.cancel()
        async with scheduling(executor, kv) as scheduler:
            assert await scheduler.status("t", "mine") == "running"
            end = await result(scheduler, it, owned=True)
        assert (end.status, end.starts) == ("dead", 3)
        assert "the daemon went away" in end.reason
        assert executor.starts["mine"] == 3


async def test_retry_off_is_not_started_again_after_a_crash() -> None:
    executor = FakeExecutor()
    it = job("wait", id="mine", retry=False)
    async with store("memory").open_kv() as kv:
        frozen = Frozen(kv)
        async with scheduling(executor, frozen, record_patience_s=0.01) as scheduler:
            task = asyncio.create_task(result(scheduler, it, owned=True))
            await wait_until(lambda: executor.starts["mine"] == 1, "it runs")
            frozen.frozen = True
            task.cancel()
        async with scheduling(executor, kv) as scheduler:
            end = await result(scheduler, it, owned=True)
        assert (end.status, executor.starts["mine"]) == ("dead", 1)


async def test_a_store_that_is_down_gives_the_job_back_unstarted() -> None:
    executor = FakeExecutor()
    async with store("memory").open_kv() as memory:
        kv = Frozen(memory)
        kv.frozen = True
        async with scheduling(executor, kv, record_patience_s=0.01) as scheduler:
            with pytest.raises(Interrupted, match="could not be recorded, so it was not started: frozen"):
                await result(scheduler, job(id="mine"), owned=True)
            assert executor.starts.total() == 0
            assert (await result(scheduler, job())).status == "ok", "needs no record"


async def test_a_result_that_can_not_be_recorded_is_given_and_not_run_again() -> None:
    executor = FakeExecutor()
    async with store("memory").open_kv() as memory:
        kv = Frozen(memory)
        async with scheduling(executor, kv, record_patience_s=0.01) as scheduler:
            it = job("wait", id="mine")
            task = asyncio.create_task(result(scheduler, it, owned=True))
            await wait_until(lambda: executor.running["mine"] == 1, "it runs")
            kv.frozen = True
            executor.go.set()
            end = await task
            assert (end.status, end.reason) == ("ok", "the result could not be recorded: frozen")
            assert (await result(scheduler, it, owned=True)) == end
            kv.frozen = False
        async with scheduling(executor, memory) as scheduler:
            assert (await result(scheduler, it, owned=True)).reason == "", "recorded before the daemon ended"
        assert executor.starts["mine"] == 1


async def test_cancel_running_queued_and_unknown() -> None:
    executor = FakeExecutor()
    async with scheduling(executor, slots=1) as scheduler:
        running = asyncio.create_task(result(scheduler, job("wait", id="a")))
        await wait_until(lambda: executor.running["a"] == 1, "one runs")
        queued = asyncio.create_task(result(scheduler, job("hi", id="b"), owned=True))
        await wait_until(lambda: scheduler.health()["queued"] == 1, "one waits")
        assert await scheduler.status("t", "b") == "queued"
        assert await scheduler.cancel("t", "nothing") is None
        for job_id, task in (("b", queued), ("a", running)):
            ends = await asyncio.gather(*(scheduler.cancel("t", job_id) for _ in range(3)))
            assert {end.status for end in ends if end} == {"cancelled"}
            assert await task == ends[0]
        assert (await result(scheduler, job("hi", id="b"), owned=True)).status == "cancelled", "its record says so"
        assert executor.starts["b"] == 0


@pytest.mark.parametrize("owned", [True, False])
async def test_cancel_at_any_moment_gives_one_end(owned: bool) -> None:
    executor = FakeExecutor(start_s=0.001)
    statuses: Counter[str] = Counter()
    async with scheduling(executor, slots=4) as scheduler:

        async def one(offset: int) -> None:
            it = job("sleep 0.02", lang="go", id=f"j{offset}", stream=True)
            task = asyncio.create_task(events(scheduler, it, owned))
            await asyncio.sleep(offset / 4000)
            cancelled = await scheduler.cancel("t", it.id)
            seen = await task
            ends = [event for event in seen if isinstance(event, Result)]
            assert len(ends) == 1
            assert ends[0] is seen[-1]
            if owned or cancelled is not None:
                assert cancelled == ends[0]
            statuses[ends[0].status] += 1

        for start in range(0, 200, 4):
            await asyncio.gather(*(one(offset) for offset in range(start, start + 4)))
    assert set(statuses) == {"ok", "cancelled"}
    assert statuses.total() == 200


async def test_a_submitter_that_goes_cancels_unless_others_wait() -> None:
    executor = FakeExecutor()
    async with scheduling(executor) as scheduler:
        it = job("wait", id="mine")
        tasks = [asyncio.create_task(result(scheduler, it, owned=True)) for _ in range(3)]
        await wait_until(lambda: executor.running["mine"] == 1, "it runs")
        for task in tasks[:2]:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await scheduler.status("t", "mine") == "running"
        tasks[2].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[2]
        await wait_until(lambda: executor.running["mine"] == 0, "nobody waits any more")
        end = await scheduler.cancel("t", "mine")
        assert end is not None
        assert end.status == "cancelled"


async def test_leaving_early_does_not_cancel() -> None:
    executor = FakeExecutor()
    async with scheduling(executor) as scheduler:
        it = job("wait", id="mine", stream=True)
        stream = scheduler.submit(it, owned=True)
        await anext(stream)
        await stream.aclose()
        executor.go.set()
        assert (await result(scheduler, it, owned=True)).status == "ok"
        assert executor.starts["mine"] == 1


class Away:
    """A store that is away while `away` is set."""

    def __init__(self, kv: KeyValues) -> None:
        self._kv = kv
        self.away = False
        self.value_bytes = kv.value_bytes

    def __getattr__(self, name: str) -> Any:
        async def ask(*args: Any) -> Any:
            if self.away:
                raise StoreError("away")
            return await getattr(self._kv, name)(*args)

        return ask


async def test_a_kept_job_is_not_answered_before_its_end_is_recorded() -> None:
    """Whether it was cancelled or ran: it comes again, and its record says the same to everyone."""
    executor = FakeExecutor()
    async with store("memory").open_kv() as memory:
        kv = Away(memory)
        async with scheduling(executor, kv=kv, record_patience_s=0.05, sweep_s=3600) as scheduler:  # type: ignore[arg-type]

            async def submitted(it: Job) -> Result:
                *_, end = [event async for event in scheduler.submit(it, owned=True, kept=True)]
                assert isinstance(end, Result)
                return end

            cancelled, ran = job("wait", id="cancelled"), job("sleep 0.2", id="ran")
            waiting = [asyncio.create_task(submitted(it)) for it in (cancelled, ran)]
            await wait_until(lambda: executor.running["cancelled"] == executor.running["ran"] == 1, "both run")
            kv.away = True
            with pytest.raises(Interrupted):
                await scheduler.cancel("t", "cancelled")
            for task in waiting:
                with pytest.raises(Interrupted):
                    await task
            for it in (cancelled, ran):
                with pytest.raises(Interrupted):
                    await submitted(it)
            kv.away = False
            assert (await submitted(cancelled)).status == "cancelled"
            assert (await submitted(ran)).status == "ok"
            assert executor.starts == Counter({"cancelled": 1, "ran": 1}), "neither ran again"


async def test_only_what_starts_at_once_is_counted_ahead() -> None:
    executor = FakeExecutor()
    async with store("memory").open_kv() as kv, scheduling(executor, kv, slots=1) as scheduler:

        async def starts(it: Job) -> int:
            entry = await Records(kv, by="", result_ttl_s=1, patience_s=1, most_owed=1).find(it.tenant, it.id)
            return -1 if entry is None else entry.record.starts

        jobs = [job("wait") for _ in range(3)]
        async with asyncio.TaskGroup() as tasks:
            for it in jobs:
                tasks.create_task(result(scheduler, it, True))
            await wait_until(lambda: scheduler.health()["queued"] == 2, "two of them wait")
            assert sorted([await starts(it) for it in jobs]) == [0, 0, 1]
            executor.go.set()
        assert [await starts(it) for it in jobs] == [1, 1, 1]
