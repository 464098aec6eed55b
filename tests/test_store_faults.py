"""Daemons whose records are in Redis: it is killed while a job runs, is gone for good, and is shared by two of them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fake_executor import FakeExecutor, a_language, wait_until
from redis_fixture import RedisServer
from runnerd import Job, Result, StoreError
from runnerd.config import load_config
from runnerd.daemon import Daemon, open_daemon
from runnerd.plugins import find_plugins

Open = Callable[..., AbstractAsyncContextManager[Daemon]]


class Executor(FakeExecutor):
    level = "strong"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with RedisServer(tmp_path / "redis", "appendonly yes", "appendfsync always", password="s3cr3t") as server:
        yield server


@pytest.fixture
def executor() -> FakeExecutor:
    return Executor()


@pytest.fixture
def open_(server: RedisServer, executor: FakeExecutor, tmp_path: Path) -> Open:
    here = a_language("py", aliases=("python",), run=("sh", "{file}"), version=("sh", "-c", "echo 1.0"))
    plugins = msgspec.structs.replace(find_plugins(), languages={"py": here}, aliases={"python": "py"})

    @asynccontextmanager
    async def open_executor(*_: Any) -> AsyncIterator[FakeExecutor]:
        yield executor

    def opened(name: str = "one", **environ: str) -> AbstractAsyncContextManager[Daemon]:
        flags = ("store.blob.kind=memory", "ingress.nats.enabled=no", "ingress.http.enabled=no", f"state_dir={tmp_path}/{name}")
        given = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(server.port), "REDIS_PASSWORD": "s3cr3t", **environ}
        settings = load_config(plugins, flags=flags, environ=given, directory=tmp_path).settings
        return open_daemon(settings, plugins, open_executor=open_executor)

    return opened


async def run(daemon: Daemon, code: str, job_id: str) -> Result:
    events = [event async for event in daemon.submit(Job(id=job_id, tenant="t", lang="py", code=code))]
    assert isinstance(events[-1], Result)
    return events[-1]


async def test_redis_is_killed_while_a_job_runs(open_: Open, server: RedisServer, executor: FakeExecutor) -> None:
    async with open_(RUNNERD_SCHEDULER_RECORD_PATIENCE_S="60") as daemon, asyncio.TaskGroup() as tasks:
        running = tasks.create_task(run(daemon, "wait", "a"))
        await wait_until(lambda: executor.running["a"] == 1, "the job runs")
        await server.kill()
        executor.go.set()
        await server.start()
        result = await running
        assert (result.status, result.reason) == ("ok", "")
        assert await run(daemon, "wait", "a") == result
    async with open_("two") as other:
        assert await run(other, "wait", "a") == result, "another daemon answers from the record"
    assert executor.starts["a"] == 1


async def test_redis_is_gone_when_a_job_ends(open_: Open, server: RedisServer, executor: FakeExecutor) -> None:
    """The result is given all the same and says so; it is recorded once the server is back."""
    async with open_(RUNNERD_SCHEDULER_RECORD_PATIENCE_S="0.5") as daemon, asyncio.TaskGroup() as tasks:
        running = tasks.create_task(run(daemon, "wait", "a"))
        await wait_until(lambda: executor.running["a"] == 1, "the job runs")
        await server.kill()
        executor.go.set()
        result = await running
        assert result.status == "ok"
        assert f"the result could not be recorded: Redis 127.0.0.1:{server.port}: " in result.reason
        assert "s3cr3t" not in result.reason
        await server.start()
        assert (await run(daemon, "wait", "a")).status == "ok"
    async with open_("two") as other:
        assert (await run(other, "wait", "a")).status == "ok"
    assert executor.starts["a"] == 1


async def test_a_daemon_without_its_store_does_not_start(open_: Open, server: RedisServer) -> None:
    await server.kill()
    with pytest.raises(StoreError, match=rf"^Redis 127\.0\.0\.1:{server.port}: "):
        async with open_():
            pass


async def test_two_daemons_share_the_records(open_: Open, executor: FakeExecutor) -> None:
    async with open_("one") as one, open_("two") as two:
        ids = [f"job-{i}" for i in range(20)]
        first = await asyncio.gather(*(run(one, "hi", job_id) for job_id in ids))
        assert await asyncio.gather(*(run(two, "hi", job_id) for job_id in ids)) == first
        assert {executor.starts[job_id] for job_id in ids} == {1}
        assert await two.status("t", "job-0") == first[0]
