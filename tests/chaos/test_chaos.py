"""Daemons, brokers and stores are killed, stopped and cut off by a schedule of chance while jobs come, and nothing is lost or doubled.

`make chaos SEED=7` replays one seed (BUS=nats or BUS=rabbitmq in the environment: on one bus alone),
`make chaos LONG=1` takes ten of each bus and more of everything. A failure shows its schedule, what the daemons complained of, and the
story of some of the jobs that it is about.
"""

import asyncio
import logging
import os
import random
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from pathlib import Path

import pytest

from chaos.bus import ChaosBus
from chaos.daemons import Held, Place
from chaos.invariants import Broken, check_held, check_letters, check_results, check_starts, check_told, none, recorded
from chaos.jetstream_bus import jetstream_bus
from chaos.ledger import Seen
from chaos.rabbitmq_bus import rabbitmq_bus
from chaos.run import Run
from chaos.schedule import KINDS, Schedule, schedule
from chaos.story import story, tracebacks, warnings
from rabbitmq_fixture import Broker
from redis_fixture import RedisServer

LONG = bool(os.environ.get("LONG"))
SEEDS = [int(os.environ["SEED"])] if os.environ.get("SEED") else list(range(10 if LONG else 5))
JOBS = 1500 if LONG else 300
LENGTH_S = 60.0 if LONG else 10.0
DAEMONS = 2
AGAIN = 20
STORIES = 3
SETTLED_S = 120.0


def plan(bus: str, seed: int) -> tuple[Schedule, bool]:
    """The schedule, and whether the store is Redis: every other seed of NATS has no server but that."""
    redis = bus == "rabbitmq" or seed % 2 == 0
    kinds = tuple(kind for kind in KINDS if redis or not kind.startswith("store"))
    if bus == "rabbitmq":
        kinds = tuple(kind for kind in kinds if kind != "broker-long")  # its node takes longer to start than anything lasts
    kinds = kinds * (4 if LONG else 1)
    return schedule(seed, kinds, JOBS, DAEMONS, LENGTH_S), redis


@pytest.mark.chaos
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", SEEDS)
async def test_whatever_happens_each_job_has_one_result(
    tmp_path: Path, rabbitmq: Broker, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    """On both buses at once: most of the time is waiting."""
    caplog.set_level(logging.CRITICAL, "aiormq")  # it tells each try to connect to a broker that is away
    buses = {"nats": jetstream_bus(tmp_path / "nats"), "rabbitmq": rabbitmq_bus(rabbitmq)}
    runs = [go(tmp_path / kind, bus, *plan(kind, seed)) for kind, bus in buses.items() if kind == os.environ.get("BUS", kind)]
    problems = await asyncio.gather(*runs, return_exceptions=True)  # one that fails does not end the other
    for problem in problems:
        if problem is not None:
            raise problem


async def go(directory: Path, opening: AbstractAsyncContextManager[ChaosBus], planned: Schedule, redis: bool) -> None:
    """One run on one bus; where it fails, all that is known of it is shown."""
    directory.mkdir()
    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(opening)
        options = ("appendonly yes", "appendfsync no")  # what is written outlives the server, not the machine
        store = await stack.enter_async_context(RedisServer(directory / "redis", *options) if redis else nullcontext())
        run = Run(bus, planned, directory, store)
        await run.open(stack, DAEMONS)
        try:
            await run.go()
            await check(run)
        except BaseException as error:
            print(f"\n{bus.kind}, {planned}\n\n{warnings(run)}\n\n{type(error).__name__}: {error}")
            for job in error.jobs[:STORIES] if isinstance(error, Broken) else ():
                print(f"\n{story(run, job)}")
            raise
        print(f"{bus.kind} seed {planned.seed}:", ", ".join(f"{count} {what}" for what, count in sorted(run.counts.items())))


async def check(run: Run) -> None:
    """All invariants, then once more after late submissions."""
    results = await recorded(run)
    await check_results(run, results)
    check_starts(run, results)
    starts = Seen(run.directory).count
    late = random.Random(run.plan.seed).sample(run.plan.jobs, AGAIN)
    for job in late:
        await run.again(job)
        await run.other(job)
    await run.calm()
    await check_results(run, results)
    assert Seen(run.directory).count == starts, "a job that had ended ran again"
    told = {answer.result.id for answer in run.bus.answers if answer.sending == "other"}
    none({job.id: "" for job in late if job.id not in told}, "another job under its id is not answered")
    await check_told(run, results)
    await check_letters(run, results)
    assert run.before is not None
    held = [await until_settled(run.before, place) for place in run.places]
    run.counts |= {
        "answers": len(run.bus.answers),
        "redelivered": await run.bus.redelivered(),
        "MB more": round(max(each.rss_mb for each in held) - run.before.rss_mb),
        "files more": max(each.files for each in held) - run.before.files,
    }
    for place in run.places:
        assert await place.drain() == 0
    assert not tracebacks(run), f"in the log: {tracebacks(run)}"
    log = (run.directory / "log").read_text()
    for word in ("never retrieved", "never awaited", "defect of runnerd"):
        assert word not in log, f"{word} in the log"


async def until_settled(before: Held, place: Place) -> Held:
    """Wait until a daemon holds no more than at its start; fails with what it holds."""
    deadline = asyncio.get_running_loop().time() + SETTLED_S
    while True:
        now = await place.held()
        try:
            check_held(before, now, place.name)
        except AssertionError:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.2)
        else:
            return now
