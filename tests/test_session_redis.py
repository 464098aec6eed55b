"""Two daemons on one Redis: a session's jobs run one at a time, and each does its work once, though the server is killed between."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from redis_fixture import RedisServer, fresh_prefix, keys_of
from runnerd import Blobs, Interrupted, Job, Owner, Result
from runnerd.scheduler import Scheduler
from scheduling import job, result
from stores import store
from test_session_sweeping import settled
from test_sessions import door, sessions

OWNER = Owner(tenant="t")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with RedisServer(tmp_path / "redis", "appendonly yes", "appendfsync always") as server:
        yield server


async def until_it_ends(scheduler: Scheduler, it: Job) -> Result:
    """As a bus does it: what is given back comes again."""
    while True:
        try:
            return await result(scheduler, it, owned=True)
        except Interrupted:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("kills", [0, 2])
async def test_each_job_does_its_work_once(server: RedisServer, blobs: Blobs, kills: int) -> None:
    settings = server.settings | {"prefix": fresh_prefix()}
    redis = store("redis", **settings)
    async with (
        redis.open_kv() as one_kv,
        redis.open_kv() as two_kv,
        sessions(one_kv, blobs, record_patience_s=2.0) as one,
        sessions(two_kv, blobs, record_patience_s=2.0) as two,
    ):
        session = (await until_it_ends(one, job("add 0", session=""))).session
        jobs = [job(f"add 1; write {n}.txt x; sleep 0.02", session=session) for n in range(20)]
        async with asyncio.TaskGroup() as tasks:
            ends = [tasks.create_task(until_it_ends(one if n % 2 else two, it)) for n, it in enumerate(jobs)]
            ends += [tasks.create_task(until_it_ends(two if n % 2 else one, it)) for n, it in enumerate(jobs) if n % 5 == 0]
            for _ in range(kills):
                await asyncio.sleep(0.3)
                await server.kill()
                await server.start()
        assert {end.result().status for end in ends} == {"ok"}
        assert (await until_it_ends(two, job("add 0", session=session))).stdout == "20\n"
        seen = await door(one).find(OWNER, session)
        assert sorted(file.name for file in seen.files) == sorted(f"{n}.txt" for n in range(20))
        assert seen.older == (), "no file appears twice"
        await door(two).delete(OWNER, session)
        await settled(one)
        await settled(two)
    left = [key.decode().removeprefix(settings["prefix"]) for key in await keys_of(settings)]
    assert [key for key in left if "sessions" in key or "states" in key or "entities" in key] == []
