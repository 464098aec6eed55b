"""The client of RabbitMQ and a real daemon, over connections that are lost and a broker that is killed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec import Struct
from runnerd_plugins.ingress.rabbitmq import RabbitMq

from fake_executor import wait_until
from jetstream import Executor, a_daemon
from rabbitmq_bench import JOBS
from rabbitmq_fixture import Broker
from runnerd import Job, Result
from runnerd.client import Client, Patience, connect_rabbitmq

PATIENT = Patience(silence_s=0.5, answer_s=10.0, connect_s=60.0, refused_s=200.0, pause_s=0.05)


class Both(Struct, frozen=True):
    """Who submits, who runs, and what is between them."""

    node: Broker
    vhost: str
    executor: Executor
    client: Client

    async def waiting(self, tasks: asyncio.TaskGroup, count: int) -> list["asyncio.Task[Result]"]:
        """Jobs that run, and their results to come."""
        jobs = [tasks.create_task(self.client.run(Job(id=f"job{n}", lang="py", code="wait"))) for n in range(count)]
        await wait_until(lambda: self.executor.running.total() == count, "all run")
        return jobs


@asynccontextmanager
async def both(node: Broker, directory: Path) -> AsyncIterator[Both]:
    """At the end nothing is left in the queue of jobs, and no job has run twice."""
    executor = Executor()
    async with node.vhost() as vhost:
        ingress = RabbitMq(url=node.url(vhost), topology="ensure", classes=("std",), retry_delays_s=(1,), rebuild_s=0.5)
        flags = ("scheduler.slots=8", "store.kv.kind=memory")
        async with (
            a_daemon(ingress, directory / "daemon", flags, executor),
            connect_rabbitmq(node.url(vhost), tenant="acme", patience=PATIENT) as client,
        ):
            yield Both(node, vhost, executor, client)
            await node.until(vhost, JOBS, ready=0, unacked=0)
    assert set(executor.starts.values()) == {1}


async def test_lost_connections_lose_no_result(rabbitmq: Broker, tmp_path: Path) -> None:
    async with both(rabbitmq, tmp_path) as b, asyncio.TaskGroup() as tasks:
        jobs = await b.waiting(tasks, 4)
        await rabbitmq.close_connections()
        late = tasks.create_task(b.client.run(Job(id="late", lang="py", code="hi")))
        assert (await late).stdout == "hi\n"
        await rabbitmq.close_connections()
        b.executor.go.set()
        assert {(await job).status for job in jobs} == {"ok"}


async def test_a_killed_broker_loses_no_job(rabbitmq: Broker, tmp_path: Path) -> None:
    async with both(rabbitmq, tmp_path) as b, asyncio.TaskGroup() as tasks:
        jobs = await b.waiting(tasks, 4)
        await rabbitmq.kill()
        b.executor.go.set()
        late = tasks.create_task(b.client.run(Job(id="late", lang="py", code="hi")))
        await rabbitmq.start()
        assert {(await job).status for job in (*jobs, late)} == {"ok"}
        assert await b.client.status("job0") == jobs[0].result()


async def test_output_that_was_lost_with_the_connection_is_in_the_result(rabbitmq: Broker, tmp_path: Path) -> None:
    async with both(rabbitmq, tmp_path) as b:
        events = b.client.stream(Job(id="one", lang="py", code="wait"))
        first = await anext(events)
        await rabbitmq.close_connections()
        b.executor.go.set()
        rest = [event async for event in events]
        assert isinstance(rest[-1], Result)
        assert (first.id, rest[-1].id, rest[-1].status) == ("one", "one", "ok")
