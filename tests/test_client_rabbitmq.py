"""The client of RabbitMQ, with the real ingress and a real broker that is killed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from nats_fixture import wait_until
from rabbitmq_bench import Bench, bench
from rabbitmq_fixture import Broker
from runnerd import IngressError, Job, Output, Result, Saturated, Started
from runnerd.client import Client, Patience, connect_rabbitmq

QUICK = Patience(silence_s=0.5, answer_s=10.0, connect_s=30.0, refused_s=120.0, pause_s=0.05)


@asynccontextmanager
async def client_of(b: Bench, **headers: str) -> AsyncIterator[Client]:
    async with connect_rabbitmq(b.url, tenant="acme", patience=QUICK, headers=headers) as client:
        yield client


async def test_a_job_and_its_result_now_and_later(rabbitmq: Broker) -> None:
    async with bench(rabbitmq) as b:
        async with client_of(b) as client:
            result = await client.run(Job(id="one", lang="py", code="echo hi"))
            assert (result.status, result.stdout, result.tenant, result.lang) == ("ok", "hi", "acme", "py")
            assert (await client.run(Job(lang="py"))).status == "rejected"
            assert "cobol" in (await client.run(Job(lang="cobol", code="echo hi"))).reason
        async with client_of(b) as client:
            assert await client.status("one") == result
            assert await client.wait("one") == result
            assert await client.status("unknown") is None


async def test_events_come_in_order(rabbitmq: Broker) -> None:
    async with bench(rabbitmq) as b, client_of(b) as client:
        events = [event async for event in client.stream(Job(lang="py", code="stream 20 10"))]
        assert isinstance(events[0], Started)
        assert sum(len(event.content) for event in events if isinstance(event, Output)) == 200
        assert isinstance(events[-1], Result)


async def test_a_job_is_followed_by_another_client(rabbitmq: Broker) -> None:
    async with (
        bench(rabbitmq, events=True) as b,
        client_of(b, **{"rd-output": "events"}) as client,
        client.submit(Job(id="one", lang="py", code="wait")) as submission,
    ):
        await wait_until(lambda: b.services.running, "it runs")
        async with asyncio.TaskGroup() as tasks:
            waited = tasks.create_task(client.wait("one"))
            b.services.release()
        assert await submission.result() == waited.result()


async def test_a_job_can_be_cancelled(rabbitmq: Broker) -> None:
    async with bench(rabbitmq) as b, client_of(b) as client, client.submit(Job(id="one", lang="py", code="wait")) as submission:
        await wait_until(lambda: b.services.running, "it runs")
        assert await client.status("one") == "running"
        cancelled = await client.cancel("one")
        assert cancelled is not None
        assert cancelled.status == "cancelled"
        assert await submission.result() == cancelled


async def test_what_is_missing_is_told(rabbitmq: Broker, unused_tcp_port: int) -> None:
    impatient = Patience(answer_s=5.0, refused_s=0.1, pause_s=0.02)
    async with rabbitmq.vhost() as vhost, connect_rabbitmq(rabbitmq.url(vhost), patience=impatient) as client:
        with pytest.raises(Saturated, match=r"no exchange 'rd\.jobs' .* `runnerd bus init`"):
            await client.run(Job(lang="py", code="echo hi"))
    with pytest.raises(IngressError, match="no connection") as caught:
        async with connect_rabbitmq(f"amqp://user:secret@127.0.0.1:{unused_tcp_port}"):
            pass
    assert "secret" not in str(caught.value)


async def test_a_class_that_nobody_serves_is_told(rabbitmq: Broker) -> None:
    impatient = Patience(answer_s=5.0, refused_s=0.1, pause_s=0.02)
    async with bench(rabbitmq) as b, connect_rabbitmq(b.url, cls="none", patience=impatient) as client:
        with pytest.raises(Saturated, match="no queue takes"):
            await client.run(Job(lang="py", code="echo hi"))
