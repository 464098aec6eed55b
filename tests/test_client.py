"""The Python client, over a real server and the real NATS ingress."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg
from runnerd_plugins.ingress.nats import Nats

from fake_services import FakeServices
from nats_fixture import NatsServer, nats_client, nats_proxy, nats_server, wait_until
from nats_ingress import Bench, bench
from runnerd import IngressError, Job, Output, Result, RunnerdError, Saturated, Started, new_id
from runnerd.client import Client, Patience, connect, run

PATIENT = Patience(silence_s=0.2, pause_s=0.02)
QUICK = Patience(silence_s=0.2, answer_s=5, refused_s=1.0, pause_s=0.02)


@asynccontextmanager
async def client_of(tmp_path: Path, patience: Patience = PATIENT, **settings: int) -> AsyncIterator[tuple[Bench, Client]]:
    async with bench(tmp_path, **settings) as b, connect(b.server.url, tenant="acme", patience=patience) as client:
        yield b, client


async def test_a_job_and_its_result(tmp_path: Path) -> None:
    async with client_of(tmp_path) as (b, client):
        result = await client.run(Job(lang="py", code="echo hi"))
        assert (result.status, result.stdout, result.tenant, result.lang) == ("ok", "hi", "acme", "py")
        assert result.id == b.services.deliveries[0].job_id
        assert [language.code for language in await client.languages()] == ["js", "py"]


async def test_many_at_once(tmp_path: Path) -> None:
    async with client_of(tmp_path, slots=4) as (_, client):
        results = await asyncio.gather(*(client.run(Job(lang="py", code=f"echo {i}")) for i in range(100)))
        assert [result.stdout for result in results] == [str(i) for i in range(100)]


async def test_aliases_are_resolved_by_what_the_daemon_says(tmp_path: Path) -> None:
    async with client_of(tmp_path) as (_, client):
        assert (await client.run(Job(lang="PY", code="echo hi"))).status == "ok"
        result = await client.run(Job(lang="cobol", code="echo hi"))
        assert (result.status, "cobol" in result.reason) == ("rejected", True)
        result = await client.run(Job(lang="no such thing", code="echo hi"))
        assert (result.status, result.reason[:5]) == ("rejected", "lang:")


async def test_a_stream_ends_with_the_result(tmp_path: Path) -> None:
    async with client_of(tmp_path) as (_, client):
        events = [event async for event in client.stream(Job(lang="py", code="stream 20 10"))]
        assert isinstance(events[0], Started)
        assert sum(len(event.content) for event in events if isinstance(event, Output)) == 200
        assert isinstance(events[-1], Result)
        assert [event for event in events if isinstance(event, Result)] == events[-1:]


async def test_a_job_without_a_program_is_rejected(tmp_path: Path) -> None:
    async with client_of(tmp_path) as (_, client):
        assert (await client.run(Job(lang="py"))).status == "rejected"
        assert (await client.run(Job(lang="py", id="a b", code="x"))).reason.startswith("id:")


async def test_a_job_too_large_for_the_bus_is_rejected_here(tmp_path: Path) -> None:
    async with client_of(tmp_path) as (b, client):
        result = await client.run(Job(lang="py", code="x" * (1 << 20)))
        assert (result.status, "bytes" in result.reason) == ("rejected", True)
        assert not b.services.deliveries
        assert (await client.run(Job(lang="py", code="echo still here"))).stdout == "still here"


async def test_status_and_cancel(tmp_path: Path) -> None:
    async with client_of(tmp_path) as (b, client):
        assert await client.status("unknown") is None
        assert await client.cancel("unknown") is None
        job = Job(id="j1", lang="py", code="wait")
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(client.run(job))
            await wait_until(lambda: b.services.running, "the job runs")
            assert await client.status("j1") == "running"
            cancelled = await client.cancel("j1")
            assert cancelled is not None
            assert cancelled.status == "cancelled"
        assert running.result().status == "cancelled"
        assert (await client.status("j1")) == running.result()


async def test_leaving_early_leaves_no_subscription(tmp_path: Path) -> None:
    async with client_of(tmp_path) as (b, client):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await client.run(Job(lang="py", code="wait"))
        b.services.release()
        assert (await client.run(Job(lang="py", code="echo hi"))).stdout == "hi"
        assert not [sub for sub in client._bus._wire.nats._subs.values() if not sub.subject.endswith(".*")]


async def test_full_daemons_are_tried_again(tmp_path: Path) -> None:
    async with client_of(tmp_path, Patience(refused_s=60, pause_s=0.02), slots=1, prefetch=0) as (b, client):
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(client.run(Job(lang="py", code="wait")))
            await wait_until(lambda: b.services.running, "the place is taken")
            second = tasks.create_task(client.run(Job(lang="py", code="echo late")))
            refused = asyncio.create_task(b.counted("refused_saturated"))
            await asyncio.wait({second, refused}, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
            assert not second.done()
            refused.cancel()
            b.services.release()
        assert second.result().stdout == "late"


async def test_nobody_there_is_told_after_a_while(tmp_path: Path) -> None:
    async with nats_server(tmp_path) as server, connect(server.url, patience=QUICK) as client:
        with pytest.raises(Saturated, match="no daemon"):
            await client.run(Job(lang="py", code="x"))
        with pytest.raises(Saturated, match="info"):
            await client.languages()


async def test_a_daemon_that_comes_later_gets_the_job(tmp_path: Path) -> None:
    async with (
        nats_server(tmp_path) as server,
        connect(server.url, patience=PATIENT) as client,
        asyncio.TaskGroup() as tasks,
    ):
        running = tasks.create_task(client.run(Job(lang="py", code="echo hi")))
        await asyncio.sleep(0.1)  # refused once or more
        async with Nats(url=server.url).open(FakeServices()):
            assert (await running).stdout == "hi"


async def test_a_failure_of_runnerd_is_an_exception(tmp_path: Path) -> None:
    async with client_of(tmp_path, Patience(refused_s=1.0, pause_s=0.02)) as (_, client):  # a traceback takes its time to be written
        with pytest.raises(RunnerdError, match="runnerd failed"):
            await client.run(Job(lang="py", code="crash"))
        with pytest.raises(Saturated, match="saturated"):
            await client.run(Job(lang="py", code="saturated"))


class Mute:
    """A daemon that loses answers: `lost` is how many jobs it leaves unanswered, `known` what it says when asked."""

    def __init__(self, bus: NatsClient, lost: int, known: bytes | None) -> None:
        self.bus = bus
        self.lost = lost
        self.known = known
        self.ids: list[str] = []

    async def take(self, msg: Msg) -> None:
        assert msg.headers is not None
        self.ids.append(msg.headers["Rd-Job-Id"])
        if len(self.ids) > self.lost:
            body = b'{"type":"result","status":"ok","stdout":"at last"}'
            await self.bus.publish(msg.reply, body, headers={"Rd-Kind": "result"})

    async def say(self, msg: Msg) -> None:
        if self.known is not None:
            await self.bus.publish(msg.reply, self.known, headers={"Rd-Kind": "result"})
        else:
            await self.bus.publish(msg.reply, b'{"error":"no such job","code":404}', headers={"Rd-Kind": "refused"})


@asynccontextmanager
async def mute(tmp_path: Path, lost: int, known: bytes | None = None) -> AsyncIterator[tuple[Mute, NatsServer]]:
    async with nats_server(tmp_path) as server, nats_client(server.url) as bus:
        daemon = Mute(bus, lost, known)
        await bus.subscribe("rd.v1.run.*.*", cb=daemon.take)
        await bus.subscribe("rd.v1.ctl.*.*.*", cb=daemon.say)
        await bus.flush()
        yield daemon, server


async def test_a_lost_answer_is_asked_for(tmp_path: Path) -> None:
    async with mute(tmp_path, lost=100, known=b'{"type":"result","status":"ok","stdout":"kept"}') as (daemon, server):
        async with connect(server.url, patience=QUICK) as client:
            assert (await client.run(Job(lang="py", code="x"))).stdout == "kept"
        assert len(daemon.ids) == 1


async def test_a_lost_job_is_sent_again_under_the_same_id(tmp_path: Path) -> None:
    async with mute(tmp_path, lost=2) as (daemon, server):
        async with connect(server.url, patience=Patience(silence_s=0.1, pause_s=0.02)) as client:
            assert (await client.run(Job(lang="py", code="x"))).stdout == "at last"
        assert len(daemon.ids) == 3
        assert len(set(daemon.ids)) == 1


async def test_a_cut_connection_is_made_again(tmp_path: Path) -> None:
    async with (
        bench(tmp_path) as b,
        nats_proxy(b.server.port) as (proxy, url),
        connect(url, tenant="acme", patience=PATIENT) as client,
        asyncio.TaskGroup() as tasks,
    ):
        running = tasks.create_task(client.run(Job(id=new_id(), lang="py", code="wait")))
        await wait_until(lambda: b.services.running, "the job runs")
        proxy.cut()
        b.services.release()
        assert (await running).status == "ok"
        assert len(b.services.results) == 1


async def test_no_server_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(IngressError, match=r"nats://127\.0\.0\.1:1: no connection"):
        async with connect("nats://127.0.0.1:1"):
            pass
    with pytest.raises(IngressError) as caught:
        async with connect("nats://user:secret@127.0.0.1:1, nats://user:secret@127.0.0.1:2"):
            pass
    assert "secret" not in str(caught.value)


async def test_wrong_credentials_are_told(tmp_path: Path) -> None:
    async with nats_server(tmp_path, authorization={"user": "a", "password": "b"}) as server:
        with pytest.raises(IngressError, match="Authorization"):
            async with connect(server.url):
                pass
        async with connect(server.url, user="a", password="b"):
            pass


async def test_from_a_program_without_a_loop(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        result = await asyncio.to_thread(run, Job(lang="py", code="echo hi"), b.server.url)
        assert result.stdout == "hi"
