"""Which jobs are taken, when their turn comes, and what becomes of them when the daemon stops."""

import asyncio
import random
from collections import Counter

import pytest
from msgspec import structs

from fake_executor import FakeExecutor, sometimes, wait_until
from runnerd import Interrupted, Job, Limits, Output, Result, Saturated, Started
from scheduling import POOL, events, job, result, scheduling
from stores import store


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


async def test_what_its_bus_keeps_is_given_back_until_its_own_time_is_over() -> None:
    executor = FakeExecutor()
    async with scheduling(executor, slots=1, queue_ttl_s=0.02) as scheduler:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(result(scheduler, job("wait")))
            await wait_until(lambda: len(executor.ran) == 1, "it runs")
            for own in (None, 60.0):
                with pytest.raises(Saturated, match="no sandbox was free in time"):
                    [event async for event in scheduler.submit(job(queue_ttl_s=own), owned=True, kept=True)]
            *_, end = [event async for event in scheduler.submit(job(queue_ttl_s=0.01), owned=True, kept=True)]
            assert isinstance(end, Result)
            assert end.status == "expired"
            executor.go.set()
        assert (await result(scheduler, job(queue_ttl_s=-1.0))).status == "expired"
        assert len(executor.ran) == 1


async def test_a_job_can_be_cancelled_before_it_comes() -> None:
    async with scheduling(FakeExecutor()) as scheduler:
        late = job()
        assert await scheduler.cancel(late.tenant, late.id) is None
        cancelled = await scheduler.cancel(late.tenant, late.id, ahead=True)
        assert cancelled is not None
        assert cancelled.status == "cancelled"
        assert await result(scheduler, late, owned=True) == cancelled
        assert await scheduler.status(late.tenant, late.id) == cancelled
        assert await scheduler.cancel(late.tenant, late.id, ahead=True) == cancelled


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
    async with store("memory").open_kv() as kv:
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
