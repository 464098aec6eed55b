"""The plain parts of the RabbitMQ ingress: topology, reply queues, headers, URLs, copies."""

import asyncio

import pytest
from aio_pika import Message
from pamqp.commands import Basic
from runnerd_plugins.ingress.rabbitmq import RabbitMq
from runnerd_plugins.ingress.rabbitmq.bus import Bus, NotSent
from runnerd_plugins.ingress.rabbitmq.credentials import places
from runnerd_plugins.ingress.rabbitmq.log import log
from runnerd_plugins.ingress.rabbitmq.outcome import encodable
from runnerd_plugins.ingress.rabbitmq.reply import heading, reply_problem
from runnerd_plugins.ingress.rabbitmq.request import answer_type, folded
from runnerd_plugins.ingress.rabbitmq.shown import shown
from runnerd_plugins.ingress.rabbitmq.topology import Address, Topology

from runnerd import JSON, MSGPACK, Counters

TOPOLOGY = Topology(prefix="rd", classes=("hi", "std"), delays_s=(1, 10))
PREFIXES = ("amq.rabbitmq.reply-to.", "amq.gen-", "rd.reply.", "rd.")


def test_names_of_queues_and_exchanges() -> None:
    assert [each.name for each in TOPOLOGY.exchanges()] == ["rd.jobs", "rd.dlx", "rd.events", "rd.ctl", "rd.retry"]
    names = ["rd.jobs.hi", "rd.jobs.std", "rd.retry.1s", "rd.retry.10s", "rd.dead", "rd.ctl"]
    assert [each.name for each in TOPOLOGY.queues()] == names


@pytest.mark.parametrize(
    ("key", "address"),
    [
        ("job.acme.std.py", Address(tenant="acme", cls="std", lang="py")),
        ("rd.jobs.std", Address()),
        ("rd.jobs.hi", None),
        ("job.acme.std", None),
        ("job.acme.std.py.x", None),
        ("ctl.acme.std.py", None),
        ("", None),
    ],
)
def test_addresses(key: str, address: Address | None) -> None:
    assert TOPOLOGY.address(key, "rd.jobs.std") == address


@pytest.mark.parametrize("queue", ["amq.gen-abc", "amq.rabbitmq.reply-to.g1.x", "rd.reply.acme.1"])
def test_reply_queues_that_are_taken(queue: str) -> None:
    assert reply_problem(queue, PREFIXES, TOPOLOGY) == ""


@pytest.mark.parametrize("queue", ["rd.jobs.std", "rd.dead", "rd.ctl", "rd.retry.10s", "amq.gen-", "orders", ""])
def test_reply_queues_that_are_refused(queue: str) -> None:
    assert reply_problem(queue, PREFIXES, TOPOLOGY)


def test_headers_are_text_in_lower_case() -> None:
    properties = Basic.Properties(headers={"Rd-A": "x", "B": 7, "c": 1.5, "D": True, "e": None, "f": b"\xff", "g": {"h": 1}})
    assert folded(properties) == {"rd-a": "x", "b": "7", "c": "1.5", "d": "true"}
    assert folded(Basic.Properties()) == {}


@pytest.mark.parametrize(
    ("content_type", "accept", "media"),
    [
        ("", "", JSON),
        (MSGPACK, "", MSGPACK),
        (MSGPACK, "application/json; q=1", JSON),
        ("text/plain", "text/html, application/x-msgpack", MSGPACK),
    ],
)
def test_answer_type(content_type: str, accept: str, media: str) -> None:
    assert answer_type(Basic.Properties(content_type=content_type), {"accept": accept}) == media


def test_heading_is_one_line_of_text() -> None:
    assert heading("a\r\nb\x00c" + "x" * 300) == "a b c" + "x" * 195


def test_passwords_are_shown_nowhere() -> None:
    ingress = RabbitMq(url="amqp://u:hunter2@one:1/v?x=hunter2, amqps://u:hunter2@two", password="hunter3")
    assert shown(ingress.url) == "amqp://one:1/v, amqps://two"
    assert "hunter" not in repr(ingress)
    assert [place.shown for place in places(ingress)] == ["one:1, virtual host 'v'", "two:5671, virtual host '/'"]
    assert {place.url.password for place in places(ingress)} == {"hunter3"}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"password": "a", "password_file": "b"}, "password and password_file"),
        ({"tls_key": "k"}, "tls_key: needs tls_cert"),
        ({"auth": "external"}, "needs tls_cert"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        RabbitMq(**settings)  # type: ignore[arg-type]


def test_headers_that_the_library_can_not_write_are_known() -> None:
    assert encodable("a", {"b": [1, "x", None, True]})
    assert not encodable("a", b"\xff")
    assert not encodable("a", {"b": [b"\xff"]})


@pytest.mark.parametrize("how", ["finish", "keeper"])
async def test_nothing_waits_for_a_broker_when_the_daemon_has_stopped(how: str, unused_tcp_port: int) -> None:
    bus = Bus(RabbitMq(url=f"amqp://127.0.0.1:{unused_tcp_port}", patience_s=100_000), TOPOLOGY, Counters(log))
    opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    opened.set_result(None)
    keeper = asyncio.create_task(bus.keep(opened))
    waiting = asyncio.create_task(bus.publish(Message(b""), "somewhere", mandatory=True))
    await asyncio.sleep(0)
    if how == "finish":
        await bus.finish(0.0)
    keeper.cancel()
    with pytest.raises(NotSent, match="before this daemon stopped"):
        await waiting
    await asyncio.wait([keeper])
    assert keeper.cancelled()
    with pytest.raises(NotSent, match="before this daemon stopped"):
        await bus.publish(Message(b""), "somewhere", mandatory=True)
