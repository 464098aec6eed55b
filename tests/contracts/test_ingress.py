"""The contract of an ingress, kept by each of the bundled ones."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from aio_pika.abc import AbstractIncomingMessage
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from runnerd_plugins.ingress.nats import Nats
from runnerd_plugins.ingress.nats.jetstream.settings import JetStream
from runnerd_plugins.ingress.rabbitmq import RabbitMq

from docker_fixture import engine
from http_services import KEY, http
from nats_fixture import nats_client, nats_server, wait_until
from rabbitmq_bench import Client as RabbitMqClient
from rabbitmq_bench import client as rabbitmq_client
from rabbitmq_fixture import Broker
from runnerd import (
    Conflict,
    Event,
    Ingress,
    Job,
    OverLimit,
    Rejected,
    Result,
    RunnerdError,
    Saturated,
    decode_event,
    decode_result,
    encode,
    new_id,
)
from runnerd.testing import IngressContract, TalkContract

REFUSED = {400: Rejected, 409: Conflict, 413: OverLimit}
PATIENCE_S = 60


def body_of(job: Job) -> bytes:
    return encode(Job(code=job.code, args=job.args, stdin=job.stdin, interactive=job.interactive, tools=job.tools))


class NatsTalker:
    """Requests on the subjects of a job."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def feed(self, job_id: str, data: bytes, *, end: bool = False) -> None:
        await self._say(f"stdin.acme.{job_id}", data, {"Rd-Eof": "1"} if end else {})

    async def answer(self, job_id: str, call: str, answer: bytes, *, failed: bool = False) -> None:
        await self._say(f"tool.acme.{job_id}.{call}", answer, {"Rd-Failed": "1"} if failed else {})

    async def _say(self, subject: str, body: bytes, headers: dict[str, str]) -> None:
        answer = await self._client.request(f"rd.v1.{subject}", body, timeout=PATIENCE_S, headers=headers or None)
        code = (answer.headers or {}).get("Nats-Service-Error-Code")
        if code is not None:
            raise REFUSED[int(code)](answer.data.decode())


class NatsCaller(NatsTalker):
    """Requests on the run subject of a tenant."""

    async def talk(self, job: Job) -> AsyncGenerator[Event]:
        inbox = self._client.new_inbox()
        answers = await self._client.subscribe(inbox)
        await self._client.publish(f"rd.v1.run.acme.{job.lang}", body_of(job), reply=inbox, headers={"Rd-Job-Id": job.id})
        event = None
        while not isinstance(event, Result):
            msg = await answers.next_msg(timeout=PATIENCE_S)
            event = decode_event(msg.data)
            yield event

    async def submit(self, job: Job) -> Result:
        body = encode(Job(code=job.code, args=job.args, stdin=job.stdin))
        return await self._ask(job.lang, body, {"Rd-Job-Id": job.id})

    async def send(self, body: bytes) -> Result:
        return await self._ask("py", body, {})

    async def _ask(self, lang: str, body: bytes, headers: dict[str, str]) -> Result:
        try:
            return self._read(await self._client.request(f"rd.v1.run.acme.{lang}", body, timeout=60, headers=headers))
        except NoRespondersError:
            raise Saturated("nobody takes jobs now") from None

    @staticmethod
    def _read(msg: Msg) -> Result:
        headers = msg.headers or {}
        if "Rd-Status" in headers:
            return decode_result(msg.data, headers["Content-Type"])
        code = headers["Nats-Service-Error-Code"]
        raise Saturated(headers["Nats-Service-Error"]) if code == "503" else RunnerdError(msg.data.decode())


class TestNats(TalkContract):
    """Core requests."""

    @pytest.fixture
    async def place(self, tmp_path: Path) -> AsyncIterator[tuple[str, int]]:
        async with nats_server(tmp_path / "server") as server:
            yield "127.0.0.1", server.port

    def ingress(self, host: str, port: int) -> Ingress:
        return Nats(url=f"nats://{host}:{port}", connect_s=1.0)

    @asynccontextmanager
    async def caller(self, address: str) -> AsyncIterator[NatsCaller]:
        async with nats_client(address) as client:
            yield NatsCaller(client)


class JetStreamCaller(NatsTalker):
    """Messages in the stream of jobs, answers on an inbox."""

    async def talk(self, job: Job) -> AsyncGenerator[Event]:
        events = await self._client.subscribe(f"rd.v1.evt.acme.{job.id}.>")
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(self._send(job.lang, body_of(job), {"Rd-Job-Id": job.id}))
            if job.tools:
                yield decode_event((await events.next_msg(timeout=PATIENCE_S)).data)
        yield running.result()

    async def submit(self, job: Job) -> Result:
        body = encode(Job(code=job.code, args=job.args, stdin=job.stdin))
        return await self._send(job.lang, body, {"Rd-Job-Id": job.id})

    async def send(self, body: bytes) -> Result:
        return await self._send("py", body, {})

    async def _send(self, lang: str, body: bytes, headers: dict[str, str]) -> Result:
        inbox = self._client.new_inbox()
        answers = await self._client.subscribe(inbox, max_msgs=1)
        accepted = await self._client.request(f"rd.v1.job.acme.std.{lang}", body, timeout=60, headers={**headers, "Rd-Reply-To": inbox})
        assert b"RD_JOBS" in accepted.data
        answer = await answers.next_msg(timeout=60)
        return decode_result(answer.data, (answer.headers or {})["Content-Type"])


class TestJetStream(TalkContract):
    """Durable jobs."""

    durable = True

    @pytest.fixture
    async def place(self, tmp_path: Path) -> AsyncIterator[tuple[str, int]]:
        async with nats_server(tmp_path / "server", jetstream={"store_dir": str(tmp_path / "jetstream")}) as server:
            yield "127.0.0.1", server.port

    def ingress(self, host: str, port: int) -> Ingress:
        return Nats(url=f"nats://{host}:{port}", connect_s=1.0, jetstream=JetStream(streams="ensure", again_s=0.05))

    @asynccontextmanager
    async def caller(self, address: str) -> AsyncIterator[JetStreamCaller]:
        async with nats_client(address) as client:
            yield JetStreamCaller(client)


class HttpCaller:
    """`POST /exec`."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def submit(self, job: Job) -> Result:
        asked = {"lang": job.lang, "code": job.code, "args": list(job.args), "stdin": job.stdin}
        return self._read(await self._client.post("/exec", json=asked, headers={"Idempotency-Key": job.id}))

    async def send(self, body: bytes) -> Result:
        return self._read(await self._client.post("/exec", content=body))

    @staticmethod
    def _read(answer: httpx.Response) -> Result:
        said = answer.json()
        match answer.status_code:
            case 200:
                return Result(id=said["job_id"], status=said["status"], exit_code=said["exit_code"], stdout=said["stdout"])
            case 400 | 422:
                return Result(status="rejected", reason=said["error"])
            case 503:
                assert int(answer.headers["Retry-After"]) > 0
                raise Saturated(said["error"])
        raise RunnerdError(said["error"])


class TestHttp(IngressContract):
    """One connection pool per caller."""

    def ingress(self, host: str, port: int) -> Ingress:
        return http(host=host, port=port)

    @asynccontextmanager
    async def caller(self, address: str) -> AsyncIterator[HttpCaller]:
        async with httpx.AsyncClient(base_url=address.partition(" ")[0], headers={"x-api-key": KEY}, timeout=60) as client:
            yield HttpCaller(client)


class RabbitMqCaller:
    """Messages on the exchange of jobs, answers to an exclusive queue."""

    def __init__(self, client: RabbitMqClient) -> None:
        self._client = client

    async def talk(self, job: Job) -> AsyncGenerator[Event]:
        sent = await self._client.send(body_of(job), f"job.acme.std.{job.lang}", message_id=job.id)
        event, seen = None, 0
        while not isinstance(event, Result):
            message = await self._answer(sent, seen)
            event, seen = decode_event(message.body, message.content_type or ""), seen + 1
            yield event

    async def feed(self, job_id: str, data: bytes, *, end: bool = False) -> None:
        await self._say(f"stdin.acme.{job_id}", data, {"rd-eof": "1"} if end else {})

    async def answer(self, job_id: str, call: str, answer: bytes, *, failed: bool = False) -> None:
        await self._say(f"tool.acme.{job_id}.{call}", answer, {"rd-failed": "1"} if failed else {})

    async def _say(self, key: str, body: bytes, headers: dict[str, str]) -> None:
        answer = await self._answer(await self._client.send(body, key, exchange="rd.ctl", headers=headers), 0)
        code = answer.headers.get("Rd-Error-Code")
        if code is not None:
            raise REFUSED[int(str(code))](answer.body.decode())

    async def _answer(self, correlation: str, number: int) -> AbstractIncomingMessage:
        await wait_until(lambda: len(self._client.answers(correlation)) > number, "an answer", PATIENCE_S)
        return self._client.answers(correlation)[number]

    async def submit(self, job: Job) -> Result:
        body = encode(Job(code=job.code, args=job.args, stdin=job.stdin))
        return await self._ask(f"job.acme.std.{job.lang}", body, message_id=job.id)

    async def send(self, body: bytes) -> Result:
        return await self._ask("job.acme.std.py", body)

    async def _ask(self, key: str, body: bytes, **properties: str) -> Result:
        message = await self._client.answer(await self._client.send(body, key, **properties))
        return decode_result(message.body, message.content_type or "")


class TestRabbitMq(TalkContract):
    """Durable jobs: what can't run now comes again by itself."""

    durable = True

    @pytest.fixture
    async def place(self, rabbitmq: Broker) -> AsyncIterator[tuple[str, int]]:
        async with rabbitmq.vhost() as self.vhost:
            yield "127.0.0.1", rabbitmq.port

    def ingress(self, host: str, port: int) -> Ingress:
        vhost = getattr(self, "vhost", "")
        url = f"amqp://{host}:{port}/{vhost}"
        return RabbitMq(url=url, topology="ensure", classes=("std",), retry_delays_s=(1,), connect_s=30.0)

    @asynccontextmanager
    async def caller(self, address: str) -> AsyncIterator[RabbitMqCaller]:
        async with rabbitmq_client(address) as client:
            yield RabbitMqCaller(client)


@pytest.mark.slow
@pytest.mark.skipif(not engine(), reason="no Docker engine runs here: RabbitMQ is then tested in Debian's version alone")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:testcontainers")
class TestRabbitMqInContainers(TestRabbitMq):
    """Newer releases, which are no packages of Debian."""

    @pytest.fixture(scope="class", params=["3.13", "4.1"])
    def container(self, request: pytest.FixtureRequest) -> Iterator[Any]:
        from testcontainers.rabbitmq import RabbitMqContainer  # noqa: PLC0415 - an engine is needed to use it

        with RabbitMqContainer(f"rabbitmq:{request.param}") as container:
            yield container

    @pytest.fixture
    async def place(self, container: Any) -> tuple[str, int]:
        self.vhost = new_id()
        for words in (["add_vhost", self.vhost], ["set_permissions", "-p", self.vhost, "guest", ".*", ".*", ".*"]):
            code, said = await asyncio.to_thread(container.exec, ["rabbitmqctl", *words])
            assert code == 0, said
        return container.get_container_host_ip(), int(container.get_exposed_port(container.port))
