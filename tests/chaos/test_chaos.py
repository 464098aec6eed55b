"""Daemons, brokers and stores are killed, stopped and cut off by a schedule of chance while jobs come, and nothing is lost or doubled.

`make chaos SEED=7` replays one seed, `make chaos LONG=1` takes ten of each bus and more jobs. A failure shows its schedule.
"""

import asyncio
import os
import random
from contextlib import AsyncExitStack, nullcontext
from pathlib import Path

import pytest

from chaos.bus import ChaosBus
from chaos.daemons import Held, Place
from chaos.invariants import check_held, check_letters, check_published, check_results, check_starts, recorded
from chaos.jetstream_bus import jetstream_bus
from chaos.rabbitmq_bus import rabbitmq_bus
from chaos.run import Run
from chaos.schedule import KINDS, Schedule, schedule
from redis_fixture import RedisServer

LONG = bool(os.environ.get("LONG"))
SEEDS = [int(os.environ["SEED"])] if os.environ.get("SEED") else list(range(10 if LONG else 5))
JOBS = 1500 if LONG else 300
LENGTH_S = 60.0 if LONG else 10.0
DAEMONS = 2
AGAIN = 20
SETTLED_S = 30.0


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
@pytest.mark.parametrize("bus", ["nats", "rabbitmq"])
async def test_whatever_happens_each_job_has_one_result(tmp_path: Path, bus: str, seed: int) -> None:
    planned, redis = plan(bus, seed)
    print(planned)
    async with AsyncExitStack() as stack:
        opening = jetstream_bus(tmp_path) if bus == "nats" else rabbitmq_bus(tmp_path)
        opened: ChaosBus = await stack.enter_async_context(opening)
        options = ("appendonly yes", "appendfsync no")  # what is written outlives the server, not the machine
        store = await stack.enter_async_context(RedisServer(tmp_path / "redis", *options) if redis else nullcontext())
        run = Run(opened, planned, tmp_path, store)
        await run.open(stack, DAEMONS)
        try:
            await run.go()
            await check(run)
        except BaseException:
            print((tmp_path / "log").read_text()[-20_000:])
            raise
        print(f"{bus} seed {seed}:", ", ".join(f"{count} {what}" for what, count in sorted(run.counts.items())))


async def check(run: Run) -> None:
    """All invariants, then once more after late submissions."""
    results = await recorded(run)
    await check_results(run, results)
    check_starts(run, results)
    starts = len(run.ledger)
    for job in random.Random(run.plan.seed).sample(run.plan.jobs, AGAIN):
        await run.again(job)
    await run.calm()
    await check_results(run, results)
    assert len(run.ledger) == starts, "a job that had ended ran again"
    await check_published(run, results)
    await check_letters(run, results)
    run.counts |= {"answers": len(run.bus.answers), "redelivered": await run.bus.redelivered()}
    assert run.before is not None
    for place in run.places:
        await until_settled(run.before, place)
    for place in run.places:
        assert await place.drain() == 0
    log = (run.directory / "log").read_text()
    for word in ("Traceback", "never retrieved", "never awaited", "defect of runnerd"):
        assert word not in log, f"{word} in the log"


async def until_settled(before: Held, place: Place) -> None:
    """Wait until a daemon holds no more than at its start; fails with what it holds."""
    deadline = asyncio.get_running_loop().time() + SETTLED_S
    while True:
        try:
            check_held(before, await place.held(), place.name)
        except AssertionError:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.2)
        else:
            return
