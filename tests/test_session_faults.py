"""Daemons that die, stall, or share a session; stores that fail. What a job did is there once, or not at all."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from msgspec import structs

from fake_executor import FakeExecutor, wait_until
from runnerd import Blobs, Interrupted, KeyValues, Owner, StoreError
from runnerd.liveness import Liveness
from scheduling import LEASE_S, Frozen, job, result, scheduling
from test_sessions import door, sessions

VICTIM = Path(__file__).parent / "session_victim.py"
OWNER = Owner(tenant="t")


@pytest.mark.parametrize(("mode", "hot", "inline"), [("owned", 1000, 0), ("late", 0, 0), ("unowned", 1000, 1000)])
async def test_a_daemon_killed_at_any_step_does_a_jobs_work_once(tmp_path: Path, mode: str, hot: int, inline: int) -> None:
    environ = os.environ | {"HOT_BYTES": str(hot), "INLINE_BYTES": str(inline)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(VICTIM), str(tmp_path), mode, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, env=environ
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    steps = [json.loads(line) for line in output.splitlines()]
    assert len(steps) >= 8
    done, undone = ["a.txt", "b.txt"], ["a.txt"]
    outcomes = set()
    for step in steps:
        seen = step["seen"]
        assert step["died"] == signal.SIGKILL
        assert isinstance(seen, dict), step
        match mode:
            case "owned":
                assert (seen["again"], seen["next"]) == (["ok", "2", done], ["ok", "3", "a.txt b.txt"]), step
            case "late":  # the other job comes before or after the first one's work, which is done once all the same
                before = (["ok", "2", done], ["ok", "3", "a.txt b.txt"])
                after = (["ok", "3", done], ["ok", "2", "a.txt"])
                assert (seen["again"], seen["next"]) in (before, after), step
            case "unowned":
                assert seen["next"] in (["ok", "2", "a.txt"], ["ok", "3", "a.txt b.txt"]), step
        files = done if mode != "unowned" or seen["next"][1] == "3" else undone
        assert (seen["files"], seen["older"]) == (files, ["a.txt"] if files == done else []), step
        outcomes.add(seen["next"][1])
    assert outcomes == ({"3"} if mode == "owned" else {"2", "3"})


class Stalled:
    """Stores of one daemon that do nothing while it is paused, as in a process that gets no time."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.go.set()

    def of(self, it: object) -> object:
        go = self.go

        class Store:
            value_bytes = getattr(it, "value_bytes", 0)

            def __getattr__(self, name: str) -> object:
                method = getattr(it, name)
                if not asyncio.iscoroutinefunction(method):
                    return method

                async def act(*args: object) -> object:
                    await go.wait()
                    return await method(*args)

                return act

        return Store()


@pytest.mark.parametrize("owned", [True, False])
async def test_two_daemons_work_in_one_session_one_at_a_time(kv: KeyValues, blobs: Blobs, owned: bool) -> None:
    async with sessions(kv, blobs) as one, sessions(kv, blobs) as two:
        session = (await result(one, job("add 0", session=""), owned)).session
        jobs = [(one if n % 2 else two, job(f"add 1; write {n % 3}.txt {n}", session=session)) for n in range(20)]
        ends = await asyncio.gather(*(result(scheduler, it, owned) for scheduler, it in jobs))
        assert sorted(int(end.stdout) for end in ends) == list(range(1, 21))
        seen = await door(two).find(OWNER, session)
        assert [file.name for file in seen.files] == ["0.txt", "1.txt", "2.txt"]
        assert len(seen.older) == 17


@pytest.mark.parametrize("owned", [True, False])
async def test_a_holder_that_stalls_loses_its_attempt_and_starts_again(kv: KeyValues, blobs: Blobs, owned: bool) -> None:
    stall, slow, quick = Stalled(), FakeExecutor(), FakeExecutor()
    async with sessions(stall.of(kv), blobs, slow, record_patience_s=60) as one, sessions(kv, blobs, quick) as two:  # type: ignore[arg-type]
        session = (await result(two, job("add 1", session=""))).session
        it = job("add 10; write slow.txt x; wait", session=session)
        task = asyncio.create_task(result(one, it, owned))
        await wait_until(lambda: slow.running.total() == 1, "the slow daemon runs it")
        stall.go.clear()
        slow.go.set()  # the job ends, and nothing of it can be written
        other = await result(two, job("add 1; ls", session=session))
        assert other.stdout == "2\n\n", "another daemon took the session over"
        stall.go.set()
        end = await task
        assert (end.status, end.stdout, end.starts) == ("ok", "12\n", 2), "what it did first is void"
        assert (await result(two, job("add 1; ls", session=session))).stdout == "13\nslow.txt\n"
        assert len(await blobs.list("files/")) == 1
        if owned:
            assert await result(two, it, owned=True) == end


async def test_a_job_that_another_daemon_runs_is_not_started_here(kv: KeyValues) -> None:
    first, second = FakeExecutor(), FakeExecutor()
    async with scheduling(first, kv) as one, scheduling(second, kv) as two:
        it = job("wait", id="mine")
        running = asyncio.create_task(result(one, it, owned=True))
        await wait_until(lambda: first.running["mine"] == 1, "it runs")
        with pytest.raises(Interrupted, match="another daemon runs the job"):
            await result(two, structs.replace(it, queue_ttl_s=0.01), owned=True)
        again = asyncio.create_task(result(two, it, owned=True))
        await asyncio.sleep(2 * LEASE_S)  # longer than a sign of life: it is renewed
        first.go.set()
        assert await running == await again
        assert (first.starts["mine"], second.starts["mine"]) == (1, 0)


async def test_a_dead_daemons_session_is_free_when_its_sign_of_life_ends(kv: KeyValues, blobs: Blobs) -> None:
    executor = FakeExecutor()
    frozen = Frozen(kv)
    async with sessions(frozen, blobs, executor, record_patience_s=0.01) as scheduler:  # type: ignore[arg-type]
        session = (await result(scheduler, job("add 1", session=""))).session
        task = asyncio.create_task(result(scheduler, job("add 1; wait", session=session)))
        await wait_until(lambda: executor.running.total() == 1, "it runs")
        frozen.frozen = True
        task.cancel()
    async with sessions(kv, blobs) as scheduler:
        waiting = await door(scheduler).find(OWNER, session)
        assert waiting.job != ""
        assert (await result(scheduler, job("add 1", session=session))).stdout == "2\n"


async def test_signs_of_life(kv: KeyValues) -> None:
    one, two = Liveness(kv, 60), Liveness(kv, 60)
    assert not await two.alive(one.by)
    assert await one.alive(one.by), "it knows that of itself"
    await one.beat()
    assert await two.alive(one.by)
    await one.end()
    assert not await two.alive(one.by)
    assert not await two.alive("")


class Failing:
    """A blob store that fails at what it is told to."""

    def __init__(self, blobs: Blobs) -> None:
        self.fails: set[str] = set()
        self._blobs = blobs

    def __getattr__(self, name: str) -> object:
        if name in self.fails:
            raise StoreError("S3 is gone")
        return getattr(self._blobs, name)


async def test_a_blob_store_that_is_gone_costs_the_job_and_leaves_the_session(kv: KeyValues, blobs: Blobs) -> None:
    failing = Failing(blobs)
    async with sessions(kv, failing) as scheduler:  # type: ignore[arg-type]
        session = (await result(scheduler, job("add 1; write a.txt x", session=""))).session
        failing.fails = {"put"}
        end = await result(scheduler, job("add 1; write b.txt x", session=session))
        assert (end.status, end.stored) == ("dead", ())
        assert "S3 is gone" in end.reason
        failing.fails = {"get"}
        assert (await result(scheduler, job("add 1; cat a.txt", session=session))).status == "dead"
        failing.fails = set()
        assert (await result(scheduler, job("add 1; ls", session=session))).stdout == "2\na.txt\n"


@pytest.mark.parametrize("owned", [True, False])
async def test_a_key_value_store_that_is_gone_at_the_end_gives_the_job_back(kv: KeyValues, blobs: Blobs, owned: bool) -> None:
    executor = FakeExecutor()
    frozen = Frozen(kv)
    async with sessions(frozen, blobs, executor, record_patience_s=0.01) as scheduler:  # type: ignore[arg-type]
        session = (await result(scheduler, job("add 1", session=""))).session
        it = job("add 1; write a.txt x; wait", session=session)
        task = asyncio.create_task(result(scheduler, it, owned))
        await wait_until(lambda: executor.running.total() == 1, "it runs")
        frozen.frozen = True
        executor.go.set()
        with pytest.raises(Interrupted, match=r"could not be recorded, so .* frozen"):
            await task
        frozen.frozen = False
        assert (await result(scheduler, job("add 1; ls", session=session))).stdout == "2\n\n"
        assert (await result(scheduler, it, owned)).stdout == "3\n", "it may be submitted again"
