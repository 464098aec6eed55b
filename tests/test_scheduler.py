"""The scheduler against an executor in memory and the stores that ship."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from contracts.test_store import store
from fake_executor import FakeExecutor, a_language, sometimes, wait_until
from runnerd import Event, Interrupted, Job, KeyValues, Limits, Output, Result, Saturated, Started, StoreError, new_id
from runnerd.pool import PoolSettings
from runnerd.scheduler import Scheduler, SchedulerSettings, open_scheduler

LANGUAGES = {"py": a_language("py", warm=2), "js": a_language("js", warm=1), "go": a_language("go", warm=0)}
POOL = PoolSettings(backoff_s=0.001, backoff_most_s=0.004)


@asynccontextmanager
async def scheduling(
    executor: FakeExecutor, kv: KeyValues | None = None, pool: PoolSettings = POOL, **settings: Any
) -> AsyncGenerator[Scheduler, None]:
    """A scheduler; afterwards nothing may be left of its jobs and sandboxes."""
    async with store("memory", "").open_kv() as memory:
        async with open_scheduler(executor, LANGUAGES, kv or memory, None, SchedulerSettings(**settings), pool) as scheduler:
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


async def test_a_job_in_a_result_out() -> None:
    async with scheduling(FakeExecutor()) as scheduler:
        it = job()
        (end,) = await events(scheduler, it)
        assert isinstance(end, Result)
        assert (end.status, end.id, end.tenant, end.lang, end.stdout, end.starts) == ("ok", it.id, "t", "py", "hi\n", 1)
        assert end.usage.queued_ms >= 0
        assert end.usage.ran_ms == 1.0
        assert end.sandbox is not None
        assert (end.sandbox.executor, end.sandbox.level, end.sandbox.warm) == ("fake", "none", True)
        cold = await result(scheduler, job(lang="go"))
        assert cold.sandbox is not None
        assert not cold.sandbox.warm
        assert await scheduler.status("t", it.id) is None, "no record of an id that the daemon made"


async def test_events_come_to_those_who_stream() -> None:
    async with scheduling(FakeExecutor()) as scheduler:
        it = job("stream 3", stream=True)
        started, *outputs, _ = await events(scheduler, it)
        assert started == Started(id=it.id, stage="run", start=1)
        assert [output.text for output in outputs if isinstance(output, Output)] == ["0\n", "1\n", "2\n"]
        assert len(await events(scheduler, job("stream 3"))) == 1


async def test_a_slow_listener_loses_output_but_slows_nothing() -> None:
    async with scheduling(FakeExecutor(), stream_events=10) as scheduler:
        it = job("stream 100", stream=True)
        stream = scheduler.submit(it)
        assert isinstance(await anext(stream), Started)
        await wait_until(lambda: scheduler.health()["running"] == 0, "ran to its end though nobody read")
        rest = [event async for event in stream]
        assert len(rest) == 11
        assert isinstance(rest[-1], Result)
        assert scheduler.health()["dropped_events"] == 90


@pytest.mark.parametrize(
    ("bad", "names"),
    [
        (job(lang="cobol"), "lang: 'cobol' is not run here: go, js, py"),
        (job(limits=Limits(wall_s=31)), "limits.wall_s: 31 asked, at most 30"),
        (job("x" * (50 << 20) + "y"), "limits.input_bytes"),
        (job("refuse"), "not this one"),
    ],
)
async def test_what_can_never_run_is_rejected(bad: Job, names: str) -> None:
    async with scheduling(FakeExecutor()) as scheduler:
        end = await result(scheduler, bad)
        assert (end.status, end.id) == ("rejected", bad.id)
        assert names in end.reason


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


async def test_a_language_that_fails_does_not_stop_the_others() -> None:
    executor = FakeExecutor()
    async with scheduling(executor, pool=structs.replace(POOL, backoff_s=3600, backoff_most_s=3600), slots=3) as scheduler:
        executor.fails = lambda: True
        assert (await result(scheduler, job(lang="go", retry=False, queue_ttl_s=0.01))).status == "expired"
        stuck = [asyncio.create_task(result(scheduler, job(lang="go"))) for _ in range(10)]
        await asyncio.sleep(0)
        executor.fails = lambda: False
        for _ in range(5):
            assert (await result(scheduler, job())).status == "ok"
        for task in stuck:
            task.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)


async def test_slots_bound_what_runs_at_once() -> None:
    executor = FakeExecutor()
    async with scheduling(executor, slots=1) as scheduler:
        most = 0

        async def submit(i: int) -> str:
            nonlocal most
            async for _ in scheduler.submit(job("sleep 0.001", tenant=f"t{i % 7}", stream=True)):
                most = max(most, executor.running.total())
            return "ended"

        assert len(await asyncio.gather(*(submit(i) for i in range(100)))) == 100
        assert most <= 1


async def test_the_queue_is_bounded() -> None:
    executor = FakeExecutor()
    async with scheduling(executor, slots=2, queue=3) as scheduler:
        tasks = [asyncio.create_task(result(scheduler, job("wait"))) for _ in range(5)]
        await wait_until(lambda: scheduler.health()["queued"] == 3, "two run, three wait")
        with pytest.raises(Saturated, match="5 jobs are running or waiting: try again in") as caught:
            await result(scheduler, job())
        assert caught.value.retry_after_s > 0
        executor.go.set()
        assert {(await task).status for task in tasks} == {"ok"}
        assert (await result(scheduler, job())).status == "ok"


async def test_a_full_daemon_still_answers_from_its_records() -> None:
    executor = FakeExecutor()
    async with scheduling(executor, slots=1, queue=0) as scheduler:
        it = job(id="mine")
        first = await result(scheduler, it, owned=True)
        busy = asyncio.create_task(result(scheduler, job("wait")))
        await wait_until(lambda: executor.running.total() == 1, "the slot is taken")
        assert await result(scheduler, it, owned=True) == first
        with pytest.raises(Saturated):
            await result(scheduler, job(id="other"), owned=True)
        executor.go.set()
        await busy


async def test_who_waits_too_long_has_expired() -> None:
    executor = FakeExecutor()
    async with scheduling(executor, slots=1, queue_ttl_s=0.02) as scheduler:
        busy = asyncio.create_task(result(scheduler, job("wait")))
        await wait_until(lambda: executor.running.total() == 1, "the slot is taken")
        for asked in (None, 0.01, 3600.0):
            end = await result(scheduler, job(queue_ttl_s=asked))
            assert (end.status, end.starts) == ("expired", 0)
        executor.go.set()
        assert (await busy).status == "ok", "the time limits the wait, not the job"


async def test_turns_go_round_languages_then_tenants() -> None:
    executor = FakeExecutor()
    async with scheduling(executor, slots=1) as scheduler:
        first = asyncio.create_task(result(scheduler, job("wait", id="first")))
        await wait_until(lambda: executor.running.total() == 1, "the slot is taken")
        asked = [("py", "loud")] * 6 + [("py", "calm")] * 2 + [("js", "loud")] * 3
        tasks = [first] + [asyncio.create_task(result(scheduler, job(lang=lang, tenant=tenant))) for lang, tenant in asked]
        await wait_until(lambda: scheduler.health()["queued"] == len(asked), "all wait")
        executor.go.set()
        await asyncio.gather(*tasks)
        order = [f"{ran.lang}/{ran.tenant}" for ran in executor.ran[1:]]
        assert order == [
            "py/loud", "js/loud", "py/calm", "js/loud", "py/loud", "js/loud", "py/calm", "py/loud", "py/loud", "py/loud", "py/loud",
        ]  # fmt: skip


async def test_free_counts_what_would_start() -> None:
    executor = FakeExecutor()
    async with scheduling(executor, slots=3) as scheduler:
        assert scheduler.free() == 3
        tasks = [asyncio.create_task(result(scheduler, job("wait"))) for _ in range(4)]
        changed = asyncio.create_task(scheduler.changed())
        await changed
        await wait_until(lambda: scheduler.free() == 0, "all slots taken")
        changed = asyncio.create_task(scheduler.changed())
        executor.go.set()
        await changed
        await asyncio.gather(*tasks)
        assert scheduler.free() == 3


# One id, one run.


@pytest.mark.parametrize("kind", ["memory", "disk"])
async def test_fifty_of_one_id_run_once_and_answer_the_same(kind: str, tmp_path: Path) -> None:
    executor = FakeExecutor()
    async with store(kind, tmp_path).open_kv() as kv, scheduling(executor, kv) as scheduler:
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
    async with store("memory", "").open_kv() as kv:
        for start in (1, 2, 3):
            async with scheduling(executor, Frozen(kv)) as scheduler:
                task = asyncio.create_task(result(scheduler, it, owned=True))
                await wait_until(lambda start=start: executor.starts["mine"] == start, "it runs")  # type: ignore[misc]
                Frozen.frozen = True  # from here on it writes no more, as if it were killed
                task.cancel()
            Frozen.frozen = False
        async with scheduling(executor, kv) as scheduler:
            assert await scheduler.status("t", "mine") == "running"
            end = await result(scheduler, it, owned=True)
        assert (end.status, end.starts) == ("dead", 3)
        assert "the daemon went away" in end.reason
        assert executor.starts["mine"] == 3


class Frozen:
    """A store that can't be written any more once it is frozen."""

    frozen = False

    def __init__(self, kv: KeyValues) -> None:
        self._kv = kv

    def __getattr__(self, name: str) -> Any:
        if self.frozen:
            raise StoreError("frozen")
        return getattr(self._kv, name)


async def test_retry_off_is_not_started_again_after_a_crash() -> None:
    executor = FakeExecutor()
    it = job("wait", id="mine", retry=False)
    async with store("memory", "").open_kv() as kv:
        async with scheduling(executor, Frozen(kv), record_patience_s=0.01) as scheduler:
            task = asyncio.create_task(result(scheduler, it, owned=True))
            await wait_until(lambda: executor.starts["mine"] == 1, "it runs")
            Frozen.frozen = True
            task.cancel()
        Frozen.frozen = False
        async with scheduling(executor, kv) as scheduler:
            end = await result(scheduler, it, owned=True)
        assert (end.status, executor.starts["mine"]) == ("dead", 1)


async def test_a_store_that_is_down_gives_the_job_back_unstarted() -> None:
    executor = FakeExecutor()
    async with store("memory", "").open_kv() as memory:
        kv = Frozen(memory)
        kv.frozen = True
        async with scheduling(executor, kv, record_patience_s=0.01) as scheduler:
            with pytest.raises(Interrupted, match="could not be recorded, so it was not started: frozen"):
                await result(scheduler, job(id="mine"), owned=True)
            assert executor.starts.total() == 0
            assert (await result(scheduler, job())).status == "ok", "needs no record"


async def test_a_result_that_can_not_be_recorded_is_given_and_not_run_again() -> None:
    executor = FakeExecutor()
    async with store("memory", "").open_kv() as memory:
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


# Ends from outside.


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


async def test_drain_finishes_what_is_in_hand() -> None:
    executor = FakeExecutor()
    async with scheduling(executor, slots=2) as scheduler:
        it = job(id="ended")
        before = await result(scheduler, it, owned=True)
        tasks = [asyncio.create_task(result(scheduler, job("wait"))) for _ in range(5)]
        await wait_until(lambda: executor.running.total() == 2, "two run, three wait")
        drain = asyncio.create_task(scheduler.drain())
        await wait_until(scheduler.draining, "draining")
        assert scheduler.free() == 0
        with pytest.raises(Interrupted, match="stopping"):
            await result(scheduler, job())
        assert await result(scheduler, it, owned=True) == before, "records still answer"
        assert not drain.done()
        executor.go.set()
        await drain
        assert {(await task).status for task in tasks} == {"ok"}


@pytest.mark.parametrize("drained", [True, False])
async def test_when_the_grace_is_over_the_rest_is_given_back_without_a_trace(drained: bool) -> None:
    executor = FakeExecutor()
    async with store("memory", "").open_kv() as kv:
        running, queued, once = job("wait", id="a"), job("wait", id="b"), job("wait", id="c", retry=False)
        async with scheduling(executor, kv, slots=2, grace_s=0.01) as scheduler:
            tasks = [asyncio.create_task(result(scheduler, it, owned=True)) for it in (running, once, queued)]
            await wait_until(lambda: executor.running.total() == 2 and scheduler.health()["queued"] == 1, "two run, one waits")
            if drained:
                await scheduler.drain()
        for task in (tasks[0], tasks[2]):
            with pytest.raises(Interrupted, match="stopped before the job ended"):
                await task
        assert (await tasks[1]).status == "dead", "it must not be started again"
        executor.go.set()
        async with scheduling(executor, kv, slots=2) as scheduler:
            assert await scheduler.status("t", "a") == "queued"
            ends = [await result(scheduler, it, owned=True) for it in (running, queued, once)]
        assert [(end.status, end.starts) for end in ends] == [("ok", 1), ("ok", 1), ("dead", 1)], "the start cut short does not count"


async def test_an_error_in_the_block_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError, match="mine"):
        async with scheduling(FakeExecutor()):
            raise KeyError("mine")


async def test_warm_sandboxes_stand_before_jobs_are_taken() -> None:
    executor = FakeExecutor(start_s=0.005)
    async with scheduling(executor) as scheduler:
        assert len(executor.sandboxes) == 3
        pools = scheduler.health()["pools"]
        assert {lang: (pool["warm"], pool["target"]) for lang, pool in pools.items()} == {"py": (2, 2), "js": (1, 1), "go": (0, 0)}
    executor.may_start.clear()
    async with scheduling(executor, pool=structs.replace(POOL, warm_at_start=False)) as scheduler:
        assert not executor.sandboxes
        executor.may_start.set()
        assert (await result(scheduler, job())).status == "ok"


@pytest.mark.parametrize("seed", range(5))
async def test_six_hundred_users_who_come_and_go(seed: int) -> None:
    """Random cancellation, lost sandboxes and failing starts: nothing leaks, each job ends once, all slots can be used after."""
    chance = random.Random(seed)
    executor = FakeExecutor(start_s=0.0005, close_s=0.0005, fails=sometimes(seed, 0.1))
    outcomes: Counter[str] = Counter()
    async with scheduling(executor, slots=6, queue=1000, starts=10) as scheduler:

        async def use(i: int) -> None:
            await asyncio.sleep(chance.random() * 0.2)
            code = chance.choice(("hi", "sleep 0.002", "lose 1", "stream 5", "fail 3"))
            owned = chance.random() < 0.3
            name = f"j{i % 150}" if owned else f"own{i}"
            it = job(code, lang=chance.choice(("py", "js", "go")), tenant=chance.choice("ab"), id=name, stream=chance.random() < 0.5)
            ends = 0
            async for event in scheduler.submit(it, owned=owned):
                assert executor.running.total() <= 6
                if isinstance(event, Result):
                    ends += 1
                    outcomes[event.status] += 1
            assert ends == 1

        users = [asyncio.create_task(use(i)) for i in range(600)]
        while not all(user.done() for user in users):
            user = chance.randrange(600)
            if chance.random() < 0.5:
                users[user].cancel()
            else:
                await scheduler.cancel(chance.choice("ab"), chance.choice((f"own{user}", f"j{user % 150}")))
            await asyncio.sleep(chance.random() * 0.001)
        for ended in await asyncio.gather(*users, return_exceptions=True):
            assert ended is None or isinstance(ended, asyncio.CancelledError)
        assert outcomes["ok"] > 50
        assert set(outcomes) <= {"ok", "failed", "cancelled", "rejected"}
        executor.fails = lambda: False
        await wait_until(lambda: scheduler.free() == 6 and executor.alive == 3, "only the warm ones are left")
        ends = asyncio.gather(*(result(scheduler, job("wait", lang=lang)) for lang in ("py", "js", "go", "py", "js", "go")))
        await wait_until(lambda: executor.running.total() == 6, "all slots can be used")
        executor.go.set()
        assert {end.status for end in await ends} == {"ok"}
    assert executor.most_alive <= 3 * 6 + 3
