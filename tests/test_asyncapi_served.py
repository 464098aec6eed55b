"""A real daemon does what its AsyncAPI document says: each test knows the document, and where to get it, and nothing else."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aio_pika
import httpx
import nats
import pytest
from aio_pika.abc import AbstractIncomingMessage
from nats.aio.client import Client
from nats.aio.msg import Msg

from asyncapi_document import Document, Object, violations
from fake_services import FakeServices
from hosting import hosted
from http_services import HttpServices
from http_services import serving as http_serving
from nats_ingress import bench
from rabbitmq_fixture import Broker
from runnerd import decode_result
from serving import Serving, serving

FLAGS = (
    "isolation.minimum=process",
    "languages.py.warm=1",
    "languages.js.warm=0",
    "scheduler.slots=2",
    "ingress.http.api_key=sk-0123456789abcdef",
)
RABBITMQ = (
    "ingress.rabbitmq.enabled=true",
    "ingress.rabbitmq.topology=ensure",
    "ingress.rabbitmq.classes=std",
    "ingress.rabbitmq.retry_delays_s=1",
)
ANSWER_S = 60


@pytest.fixture(scope="module")
async def vhost(rabbitmq: Broker) -> AsyncIterator[str]:
    async with rabbitmq.vhost() as name:
        yield rabbitmq.url(name)


@pytest.fixture(scope="module")
async def daemon(vhost: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Serving]:
    async with hosted(serving(tmp_path_factory.mktemp("daemon"), *FLAGS, *RABBITMQ, f"ingress.rabbitmq.url={vhost}")) as running:
        yield running
        assert (await running.stop())[0] == 0


@pytest.fixture(scope="module")
async def bus(daemon: Serving) -> AsyncIterator[Client]:
    client = await nats.connect(daemon.said["nats"])
    yield client
    await client.close()


@pytest.fixture(scope="module")
async def document(bus: Client) -> Document:
    """The daemon's own, found by way of discovery."""
    metadata = json.loads((await bus.request("$SRV.INFO", b"", timeout=ANSWER_S)).data)["metadata"]
    return Document(json.loads((await bus.request(metadata["asyncapi"], b"", timeout=ANSWER_S)).data))


def example(message: Object) -> tuple[Object, bytes]:
    """Headers and body of a message's first example; empty ones where it has none."""
    (first, *_) = message.get("examples", [{"payload": None}])
    return first.get("headers", {}), json.dumps(first["payload"]).encode() if first["payload"] is not None else b""


def header_at(part: Object) -> str:
    """The header that a runtime expression names."""
    name: str = part["location"].removeprefix("$message.header#/")
    return name


def read(document: Document, operation: Object, msg: Msg) -> str:
    """Which of the operation's replies this is; a result is one for runnerd's own codec, too."""
    message = document.one_of(document.replies(operation), dict(msg.headers or {}), msg.data)
    if message["payload"] == {"$ref": "#/components/schemas/Result"}:
        assert decode_result(msg.data).stdout == "hi\n"
    name: str = message["name"]
    return name


async def test_is_valid_and_says_where_the_daemon_listens(daemon: Serving, document: Document) -> None:
    assert violations(document.data) == []
    servers = document.data["servers"]
    assert f"nats://{servers['nats']['host']}" == daemon.said["nats"]
    assert f"http://{servers['http']['host']}" == daemon.said["http"].split()[0]
    assert f"{servers['rabbitmq']['host']}{servers['rabbitmq']['pathname']}" == daemon.said["rabbitmq"].removeprefix("amqp://")
    assert "sk-0123" not in json.dumps(document.data)


async def test_http_serves_the_same_to_those_with_a_key(daemon: Serving, document: Document) -> None:
    async with httpx.AsyncClient(base_url=daemon.said["http"].split()[0], timeout=ANSWER_S) as client:
        assert (await client.get("/asyncapi.json")).status_code == 401
        answer = await client.get("/asyncapi.json", headers={"x-api-key": "sk-0123456789abcdef"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == document.data


async def test_requests_over_nats(bus: Client, document: Document) -> None:
    """Each question that any daemon may answer, in the order of the document: what becomes of a job is asked after it ran."""
    told = {}
    for name, operation in document.operations("nats").items():
        if "nats" not in operation.get("bindings", {}):
            continue  # for JetStream, or for the one daemon that has the job
        message = document.message(operation)
        headers, body = example(message)
        correlation = header_at(message["correlationId"])
        answer = await bus.request(document.address(operation), body, timeout=ANSWER_S, headers={**headers, correlation: name})
        told[name] = read(document, operation, answer)
        assert (answer.headers or {})[correlation] == name
    assert told == {
        "nats_run": "Result",
        "nats_status": "Result",
        "nats_cancel": "Result",
        "nats_info_langs": "Languages",
        "nats_info_limits": "Limits",
        "nats_info_schema": "Schema",
        "nats_info_asyncapi": "AsyncApi",
    }


async def test_what_can_not_be_answered_is_refused_as_described(bus: Client, document: Document) -> None:
    status, run = document.data["operations"]["nats_status"], document.data["operations"]["nats_run"]
    answer = await bus.request(document.address(status, job="nobodys"), b"", timeout=ANSWER_S)
    assert read(document, status, answer) == "Refused"
    answer = await bus.request(document.address(run), b"no job", timeout=ANSWER_S)
    message = document.one_of(document.replies(run), dict(answer.headers or {}), answer.data)
    assert (message["name"], decode_result(answer.data).status) == ("Result", "rejected")


@pytest.mark.parametrize("name", ["nats_job", "nats_job_named"])
async def test_durable_jobs_over_nats(bus: Client, document: Document, name: str) -> None:
    operation = document.data["operations"][name]
    message = document.message(operation)
    headers, body = example(message)
    inbox = bus.new_inbox()
    answers = await bus.subscribe(inbox, max_msgs=1)
    accepted = await bus.jetstream().publish(
        document.address(operation), body, headers={**headers, header_at(operation["reply"]["address"]): inbox}, timeout=ANSWER_S
    )
    assert accepted.stream == operation["x-runnerd-jetstream"]["stream"]
    answer = await answers.next_msg(timeout=ANSWER_S)
    assert read(document, operation, answer) == "Result"

    published = document.data["operations"]["nats_result"]
    job = decode_result(answer.data).id
    stored = await bus.jetstream().get_last_msg(published["x-runnerd-jetstream"]["stream"], document.address(published, job=job))
    found = document.one_of([document.message(published)], stored.headers or {}, stored.data or b"")
    assert found["name"] == "StoredResult"


async def test_events_of_durable_jobs_over_nats(bus: Client, document: Document) -> None:
    operation, published = document.data["operations"]["nats_job"], document.data["operations"]["nats_event"]
    _, body = example(document.message(operation))
    job = "example-events"
    events = await bus.subscribe(document.address(published, job=job, kind="*"))
    await bus.jetstream().publish(document.address(operation), body, headers={"Rd-Job-Id": job, "Rd-Output": "events"}, timeout=ANSWER_S)
    messages = [document.resolve(message) for message in published["messages"]]
    kinds = document.channel(published)["parameters"]["kind"]["enum"]
    told = []
    for _ in range(2):
        event = await events.next_msg(timeout=ANSWER_S)
        assert event.subject.rpartition(".")[2] in kinds
        told.append(document.one_of(messages, dict(event.headers or {}), event.data)["name"])
    assert told == ["Started", "Output"]


async def test_calls_of_tools_over_nats(bus: Client, document: Document) -> None:
    """The job's call comes to where its result goes, and its answer is sent to an address of its own."""
    run, tool = document.data["operations"]["nats_run"], document.data["operations"]["nats_tool"]
    inbox = bus.new_inbox()
    answers = await bus.subscribe(inbox)
    body = json.dumps({"code": "from runnerd_tools import call\nprint(call('greet'))", "tools": ["greet"]}).encode()
    await bus.publish(document.address(run), body, reply=inbox, headers={"Rd-Job-Id": "caller"})
    call = await answers.next_msg(timeout=ANSWER_S)
    assert read(document, run, call) == "ToolCall"
    address = document.address(tool, job="caller", call=json.loads(call.data)["call"])
    assert read(document, tool, await bus.request(address, b'"hi"', timeout=ANSWER_S)) == "Answered"
    assert read(document, run, await answers.next_msg(timeout=ANSWER_S)) == "Result"
    assert read(document, tool, await bus.request(address, b'"hi"', timeout=ANSWER_S)) == "Refused"


async def test_jobs_over_http(document: Document) -> None:
    (operation,) = document.operations("http").values()
    (server,) = document.servers(operation)
    scheme = document.resolve(server["security"][0])
    headers, body = example(document.message(operation))
    async with httpx.AsyncClient(base_url=f"{server['protocol']}://{server['host']}", timeout=ANSWER_S) as client:
        method = operation["bindings"]["http"]["method"]
        answer = await client.request(
            method, document.address(operation), content=body, headers={**headers, scheme["name"]: "sk-0123456789abcdef"}
        )
    told = document.one_of(document.replies(operation), {}, answer.content)
    assert told["bindings"]["http"]["statusCode"] == answer.status_code
    assert answer.json()["stdout"] == "hi\n"


async def test_jobs_over_rabbitmq(vhost: str, document: Document) -> None:
    """A job, then the questions about it."""
    told = {}
    answers: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
    async with await aio_pika.connect(vhost) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(exclusive=True)
        await queue.consume(answers.put, no_ack=True)
        for name in ("rabbitmq_job", "rabbitmq_status", "rabbitmq_cancel"):
            operation = document.data["operations"][name]
            await send(document, channel, operation, queue.name)
            async with asyncio.timeout(ANSWER_S):
                answer = await answers.get()
            found = document.one_of(document.replies(operation), dict(answer.headers), answer.body)
            check(found, answer)
            told[name] = found["name"]
    assert set(told.values()) == {"Result"}


async def send(document: Document, channel: Any, operation: Object, reply_to: str) -> None:
    """Send an operation's example."""
    message = document.message(operation)
    headers, body = example(message)
    properties = {header_at(operation["reply"]["address"]): reply_to, header_at(message["correlationId"]): "c-1"}
    assert set(properties) <= set(message["x-amqp-properties"]["properties"])
    place = document.channel(operation)["bindings"]["amqp"]["exchange"]
    exchange = await channel.get_exchange(place["name"])
    await exchange.publish(
        aio_pika.Message(body, headers=headers, content_type="application/json", **properties), document.address(operation)
    )


def check(message: Object, answer: AbstractIncomingMessage) -> None:
    assert (answer.type, answer.correlation_id) == (message["bindings"]["amqp"]["messageType"], "c-1")
    assert decode_result(answer.body, answer.content_type or "").stdout == "hi\n"


async def test_discovery_shows_live_slots(bus: Client, document: Document) -> None:
    """Free, running and warm, in INFO and STATS, before, while and after a job runs that waits for its input."""
    await until(bus, slots="2", free="2", running="0", queued="0", warm="py=1")
    run, stdin = document.data["operations"]["nats_run"], document.data["operations"]["nats_stdin"]
    body = json.dumps({"code": "print(input())", "interactive": True}).encode()
    async with asyncio.TaskGroup() as tasks:
        job = tasks.create_task(bus.request(document.address(run), body, timeout=ANSWER_S, headers={"Rd-Job-Id": "typed"}))
        await until(bus, slots="2", free="1", running="1", queued="0")
        stats = json.loads((await bus.request("$SRV.STATS", b"", timeout=ANSWER_S)).data)
        data = stats["endpoints"][0]["data"]
        assert (data["slots"], data["free"], data["running"], data["queued"]) == (2, 1, 1, 0)
        taken = await bus.request(document.address(stdin, job="typed"), b"hi\n", timeout=ANSWER_S, headers={"Rd-Eof": "1"})
        assert read(document, stdin, taken) == "Taken"
        assert read(document, run, await job) == "Result"
    await until(bus, slots="2", free="2", running="0", queued="0", warm="py=1")


async def until(bus: Client, **metadata: str) -> None:
    """Ask for INFO until it says so: nobody tells when it changes."""
    found: Object = {}
    try:
        async with asyncio.timeout(ANSWER_S):
            while {name: found.get(name) for name in metadata} != metadata:
                found = json.loads((await bus.request("$SRV.INFO", b"", timeout=ANSWER_S)).data)["metadata"]
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"INFO says {found}, never {metadata}") from None


async def test_a_document_larger_than_a_message_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def large(_: FakeServices) -> Object:
        return {"asyncapi": "3.0.0", "info": "x" * 70_000}

    monkeypatch.setattr(FakeServices, "asyncapi", large)
    async with bench(tmp_path, server={"max_payload": 65_536}) as b:
        answer = await b.ask("rd.v1.info.asyncapi")
        assert (answer.headers or {})["Nats-Service-Error-Code"] == "413"
        assert "more than a message of this bus takes" in json.loads(answer.data)["error"]


async def test_http_asks_its_daemon() -> None:
    services = HttpServices()
    async with http_serving(services) as client:
        assert (await client.get("/asyncapi.json")).json() == await services.asyncapi()
