"""The client of durable jobs on JetStream, with real daemons and a real server that is killed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fake_executor import wait_until
from jetstream import Durable, Executor, durable
from nats_fixture import nats_server
from runnerd import IngressError, Job, Output, Result, Saturated, Started
from runnerd.client import Client, Patience, connect, connect_jetstream

QUICK = Patience(silence_s=0.5, answer_s=1.0, refused_s=60.0, pause_s=0.05)


@asynccontextmanager
async def client_of(bus: Durable, patience: Patience = QUICK) -> AsyncIterator[Client]:
    async with connect_jetstream(bus.server.url, tenant="acme", patience=patience) as client:
        yield client


async def test_a_job_and_its_result_now_and_later(tmp_path: Path) -> None:
    async with durable(tmp_path) as bus:
        async with bus.daemon(), client_of(bus) as client:
            result = await client.run(Job(id="one", lang="py", code="hi"))
            assert (result.status, result.stdout, result.tenant, result.lang) == ("ok", "hi\n", "acme", "py")
            assert (await client.run(Job(lang="py"))).status == "rejected"
        async with client_of(bus) as client:  # no daemon is there any more
            assert await client.status("one") == result
            assert await client.wait("one") == result


async def test_events_come_in_order_and_are_there_later(tmp_path: Path) -> None:
    async with durable(tmp_path) as bus, bus.daemon(), client_of(bus) as client:
        events = [event async for event in client.stream(Job(id="one", lang="py", code="stream 3"))]
        assert [type(event) for event in events] == [Started, Output, Output, Output, Result]
        assert [event async for event in client.tail("one")] == events


async def test_a_job_is_followed_from_its_beginning_while_it_runs(tmp_path: Path) -> None:
    executor = Executor()
    async with durable(tmp_path) as bus, bus.daemon(executor), client_of(bus) as client:
        async with client.submit(Job(id="one", lang="py", code="wait"), stream=True) as submission:
            assert submission.id == "one"
        await wait_until(lambda: executor.running.total() == 1, "it runs")
        async with asyncio.TaskGroup() as tasks:
            tailed = tasks.create_task(listed(client, "one"))
            waited = tasks.create_task(client.wait("one"))
            executor.go.set()
        assert [type(event) for event in tailed.result()] == [Started, Result]
        assert tailed.result()[-1] == waited.result()


async def listed(client: Client, job_id: str) -> list[object]:
    return [event async for event in client.tail(job_id)]


async def test_a_job_waits_for_a_daemon_and_can_be_cancelled(tmp_path: Path) -> None:
    async with durable(tmp_path) as bus:
        async with bus.daemon():
            pass  # it made the streams
        async with client_of(bus) as client, client.submit(Job(id="one", lang="py", code="hi")) as first:
            async with client.submit(Job(id="two", lang="py", code="hi")):
                pass
            executor = Executor()
            async with bus.daemon(executor):
                assert (await first.result()).status == "ok"
                assert (await client.wait("two")).status == "ok"
                async with client.submit(Job(id="three", lang="py", code="wait")) as third:
                    await wait_until(lambda: executor.running.total() == 1, "it runs")
                    assert await client.status("three") == "running"
                    cancelled = await client.cancel("three")
                    assert cancelled is not None
                    assert cancelled.status == "cancelled"
                    assert await third.result() == cancelled
                ahead = await client.cancel("unknown")  # it may come yet, and never runs then
                assert ahead is not None
                assert ahead.status == "cancelled"
                assert await client.status("unknown") == ahead
                assert await client.status("never-seen") is None


async def test_the_same_id_again_is_answered_and_another_body_rejected(tmp_path: Path) -> None:
    executor = Executor()
    async with durable(tmp_path) as bus, bus.daemon(executor), client_of(bus) as client:
        first = await client.run(Job(id="one", lang="py", code="hi"))
        assert await client.run(Job(id="one", lang="py", code="hi")) == first
        assert (await client.run(Job(id="one", lang="py", code="print 3"))).status == "rejected"
        assert executor.starts["one"] == 1


async def test_a_killed_server_loses_no_job_and_none_runs_twice(tmp_path: Path) -> None:
    executor = Executor()
    async with durable(tmp_path) as bus, bus.daemon(executor, slots=8), client_of(bus) as client:
        async with asyncio.TaskGroup() as tasks:
            jobs = [tasks.create_task(client.run(Job(id=f"job{n}", lang="py", code="wait"))) for n in range(8)]
            await wait_until(lambda: executor.running.total() == 8, "all run")
            await bus.server.kill()
            executor.go.set()
            late = tasks.create_task(client.run(Job(id="late", lang="py", code="hi")))
            await bus.server.start()
        assert {job.result().status for job in (*jobs, late)} == {"ok"}
        assert set(executor.starts.values()) == {1}
        await bus.drained()


async def test_a_server_without_streams_is_told(tmp_path: Path) -> None:
    impatient = Patience(answer_s=1.0, refused_s=0.1, pause_s=0.02)
    async with nats_server(tmp_path) as server, connect_jetstream(server.url, patience=impatient) as client:
        with pytest.raises(Saturated, match="runnerd bus init"):
            await client.run(Job(lang="py", code="hi"))
    with pytest.raises(IngressError, match="no connection"):
        async with connect_jetstream("nats://127.0.0.1:1"):
            pass


async def test_results_of_requests_are_there_later_too(tmp_path: Path) -> None:
    async with durable(tmp_path) as bus, bus.daemon():
        async with connect(bus.server.url, tenant="acme") as client:
            result = await client.run(Job(id="one", lang="py", code="hi"))
        async with connect(bus.server.url, tenant="acme") as client:
            assert await client.wait("one") == result
