"""What any sender can do to a queue of jobs. Each message is answered or buried, and nothing else is disturbed."""

import json
from typing import Any

import pytest
from aiormq.abc import ChannelFrame
from pamqp import body as bodies
from pamqp import commands, header
from pamqp.frame import marshal

from hosting import hosted
from rabbitmq_bench import Bench, bench, held, result_of
from rabbitmq_fixture import Broker
from runnerd import MSGPACK, Job, encode

KEY = "job.acme.std.py"


async def undisturbed(b: Bench, connections: list[str]) -> None:
    """The daemon works, on the connections that it began with, and nothing is in hand."""
    assert result_of(await b.client.run("echo on")).stdout == "on"
    await b.until(ready=0, unacked=0)
    assert await b.node.connections() == connections


@pytest.mark.parametrize(
    ("key", "body", "properties", "code", "says"),
    [
        (KEY, b"not json", {}, 400, "not a job in application/json"),
        (KEY, b"", {}, 400, "not a job"),
        (KEY, b"[" * 100_000, {}, 400, "not a job"),
        (KEY, b'{"code": 7}', {}, 400, "code"),
        (KEY, b'{"code": "x", "env": {"A": 1}}', {}, 400, "env"),
        (KEY, b"\xff\xfe", {}, 400, "not a job"),
        (KEY, b'{"code": "echo", "tenant": "other"}', {}, 400, "tenant"),
        (KEY, b"\xc1", {"content_type": MSGPACK}, 400, "not a job in application/msgpack"),
        (KEY, b"{}", {"content_type": "text/html"}, 400, "text/html"),
        (KEY, b"{}", {"message_id": "a.b>*"}, 400, "message_id"),
        (KEY, b"{}", {"headers": {"rd-timeout-ms": "soon"}}, 400, "rd-timeout-ms: 'soon' must be"),
        (KEY, b"{}", {"headers": {"RD-Queue-TTL-ms": -1}}, 400, "rd-queue-ttl-ms"),
        (KEY, b"{}", {"headers": {"accept": "text/html"}}, 400, "accept"),
        (KEY, b"{}", {"headers": {"rd-stream": "yes"}}, 400, "rd-stream"),
        (KEY, b"{}", {"headers": {"rd-output": "everywhere"}}, 400, "use inline or events or durable or none"),
        (KEY, b"{}", {"headers": {"rd-output": "none", "rd-stream-to": "rd.reply.a"}}, 400, "rd-stream-to: can't be together"),
        (KEY, b"{}", {"headers": {"rd-output": "durable", "rd-stream": "reply"}}, 400, "rd-stream: can't be together"),
        (KEY, b"{}", {"headers": {"rd-stream-to": "rd.jobs.std"}}, 400, "rd-stream-to: one of runnerd's own queues"),
        (KEY, b"x" * 200_001, {}, 413, "at most 200000"),
        ("job.acme.std.cobol", b"{}", {}, 404, "use one of js, py"),
        ("job.acme.std.PY", b"{}", {}, 404, "use one of js, py"),
        ("job.a%b.std.py", b"{}", {}, 400, "tenant"),
        (f"job.{'t' * 65}.std.py", b"{}", {}, 400, "tenant"),
        ("job.acme.std", b"{}", {}, 400, "routing key"),
        ("job.acme.std.py.more", b"{}", {}, 400, "routing key"),
    ],
)
async def test_jobs_that_can_never_run(
    rabbitmq: Broker, shared: Bench, key: str, body: bytes, properties: dict[str, Any], code: int, says: str
) -> None:
    connections = await rabbitmq.connections()
    msg = await shared.client.answer(await shared.client.send(body, key, **properties))
    assert (msg.headers["Rd-Status"], msg.headers["Rd-Error-Code"]) == ("rejected", code)
    result = result_of(msg)
    assert (result.status, bool(result.id)) == ("rejected", True)
    assert says in result.reason
    await undisturbed(shared, connections)


@pytest.mark.parametrize("reply_to", ["rd.jobs.std", "rd.ctl", "rd.dead", "orders", "amq.rabbitmq.reply-to.", "x" * 255, "rd.reply."])
async def test_reply_queues_that_are_something_else(rabbitmq: Broker, shared: Bench, reply_to: str) -> None:
    connections = await rabbitmq.connections()
    ran = len(shared.services.deliveries)
    await shared.client.send(encode(Job(code="echo no")), reply_to=reply_to, message_id="never")
    await shared.until("rd.dead", ready=1)
    (letter,) = await shared.letters()
    assert letter.headers["Rd-Dead-Reason"].startswith("reply_to: ")
    assert len(shared.services.deliveries) == ran
    await undisturbed(shared, connections)


MALFORMED = {
    "message id that is no UTF-8": {"message_id": "\x01\x02"},
    "reply queue that is no UTF-8": {"reply_to": "\x01\x02"},
    "correlation id that is no UTF-8": {"correlation_id": "\x01\x02"},
    "header name that is no UTF-8": {"headers": {"\x01\x02": "x"}},
}


@pytest.mark.parametrize("properties", MALFORMED.values(), ids=MALFORMED)
async def test_messages_that_break_a_naive_client(rabbitmq: Broker, shared: Bench, properties: dict[str, Any]) -> None:
    connections = await rabbitmq.connections()
    await raw(shared, KEY, commands.Basic.Properties(**properties))
    await shared.until("rd.dead", ready=1)
    (letter,) = await shared.letters()
    assert "UTF-8" in letter.headers["Rd-Dead-Reason"]
    assert letter.body == b'{"code": "echo"}'
    await undisturbed(shared, connections)


async def test_a_routing_key_that_is_no_utf_8(rabbitmq: Broker, shared: Bench) -> None:
    connections = await rabbitmq.connections()
    reply_to = shared.client.queue.name
    await raw(shared, "job.a\x01\x02.std.py", commands.Basic.Properties(correlation_id="odd", reply_to=reply_to))
    assert "tenant" in result_of(await shared.client.answer("odd")).reason
    await undisturbed(shared, connections)


ODD = [{"headers": {"x": "\x01\x02"}}, {"priority": 255}, {"message_type": "x"}]


@pytest.mark.parametrize("odd", ODD, ids=str)
async def test_odd_properties_are_nobodys_business(rabbitmq: Broker, shared: Bench, odd: dict[str, Any]) -> None:
    connections = await rabbitmq.connections()
    properties = commands.Basic.Properties(correlation_id="odd-one", reply_to=shared.client.queue.name)
    for name, value in odd.items():
        setattr(properties, name, value)  # the library checks what is given to its constructor
    await raw(shared, KEY, properties)
    await held(lambda: shared.client.answers("odd-one"), "an answer")
    shared.client.got.clear()
    await undisturbed(shared, connections)


async def test_a_question_without_a_reply_queue_is_dropped(rabbitmq: Broker, shared: Bench) -> None:
    connections = await rabbitmq.connections()
    await shared.client.send(b"", "ctl.acme.j.cancel", exchange="rd.ctl", reply_to=None)
    await shared.client.send(b"", "ctl.acme.j.cancel", exchange="rd.ctl", reply_to="rd.jobs.std")
    assert json.loads((await shared.client.ask("ctl.acme.j.status")).body)["code"] == 404
    await undisturbed(shared, connections)


async def raw(b: Bench, key: str, properties: commands.Basic.Properties) -> None:
    """Publish with bytes 0xff 0xfe in place of 1 and 2, which the library would not write."""
    channel = await b.client.channel.get_underlay_channel()
    body = b'{"code": "echo"}'
    frames = (
        commands.Basic.Publish(exchange="rd.jobs", routing_key=key),
        header.ContentHeader(body_size=len(body), properties=properties),
        bodies.ContentBody(body),
    )
    payload = b"".join(marshal(frame, channel.number) for frame in frames[:2]).replace(b"\x01\x02", b"\xff\xfe")
    channel.delivery_tag += 1  # the broker counts it too
    whole = payload + marshal(frames[2], channel.number)
    await channel.write_queue.put(ChannelFrame(payload=whole, should_close=False, drain_future=None))


@pytest.fixture(scope="module")
async def shared(rabbitmq: Broker) -> Any:
    """One virtual host, daemon and client for all: what harms a later test has disturbed something."""
    async with hosted(bench(rabbitmq, alone=False, body_bytes=200_000)) as b:
        yield b
