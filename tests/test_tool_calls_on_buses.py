"""Calls of tools and standard input over each bus, by its client: a real daemon, real sandboxes, real servers, which are killed."""

import asyncio
import zlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aio_pika.exceptions import PublishError

from hosting import hosted
from nats_fixture import nats_client, nats_server
from rabbitmq_bench import client as rabbitmq_client
from rabbitmq_fixture import Broker
from runnerd import Conflict, Job, Output, OverLimit, Rejected, Result, Saturated, ToolCall, new_id
from runnerd.client import Client, Patience, ToolError, connect, connect_jetstream, connect_rabbitmq
from runnerd.config import load_config
from runnerd.daemon import open_daemon
from runnerd.plugins import find_plugins

PATIENCE = Patience(silence_s=0.5, answer_s=10.0, connect_s=30.0, refused_s=120.0, pause_s=0.05)
BUSES = ("nats", "jetstream", "rabbitmq")
KILLABLE = ("nats", "jetstream", pytest.param("rabbitmq", marks=pytest.mark.slow))
"""A RabbitMQ takes long to come back."""


@asynccontextmanager
async def daemon(directory: Path, *flags: str) -> AsyncIterator[None]:
    plugins = find_plugins()
    common = (f"state_dir={directory}", "ingress.http.enabled=false", "isolation.minimum=process", "languages.py.warm=2")
    settings = load_config(plugins, flags=[*common, *flags], environ={}, directory=directory).settings
    only = msgspec.structs.replace(plugins, languages={"py": plugins.languages["py"]})
    async with open_daemon(settings, only):
        yield


class Place:
    """A bus with a daemon on it."""

    def __init__(self, kind: str, url: str, server: Any) -> None:
        self.kind = kind
        self.url = url
        self.server = server

    def client(self, tenant: str = "acme", patience: Patience = PATIENCE) -> Any:
        connecting: Any = {"nats": connect, "jetstream": connect_jetstream, "rabbitmq": connect_rabbitmq}[self.kind]
        return connecting(self.url, tenant=tenant, patience=patience)


@asynccontextmanager
async def place(kind: str, tmp_path: Path, broker: Broker, *flags: str) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        if kind == "rabbitmq":
            vhost = await stack.enter_async_context(broker.vhost())
            found = Place(kind, broker.url(vhost), broker)
            own = (
                "ingress.nats.enabled=false", "ingress.rabbitmq.enabled=true", f"ingress.rabbitmq.url={found.url}",
                "ingress.rabbitmq.topology=ensure", 'ingress.rabbitmq.classes=["std"]', "ingress.rabbitmq.retry_delays_s=[1]",
                "ingress.rabbitmq.connect_s=30",
            )  # fmt: skip
        else:
            jetstream = {"store_dir": str(tmp_path / "jetstream")}
            server = await stack.enter_async_context(nats_server(tmp_path / "server", jetstream=jetstream))
            found = Place(kind, server.url, server)
            own = (f"ingress.nats.url={server.url}", "ingress.nats.jetstream.streams=ensure")
        await stack.enter_async_context(daemon(tmp_path / "state", *own, *flags))
        yield found


@pytest.fixture(scope="module", params=BUSES)
async def bus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, rabbitmq: Broker) -> AsyncIterator[Place]:
    async with hosted(place(request.param, tmp_path_factory.mktemp(request.param), rabbitmq, "tools.bytes=100000")) as found:
        yield found


async def add(a: float, b: float) -> float:
    return a + b


async def refuse(**_: Any) -> None:
    raise ToolError("not today")


async def fault() -> None:
    raise ZeroDivisionError("a secret of the submitter's")


CALLS = """
import asyncio
from runnerd_tools import ToolError, call, call_async

async def main():
    print(await asyncio.gather(*(call_async("add", a=i, b=0.5) for i in range(40))))

asyncio.run(main())
for name in ("refuse", "fault"):
    try:
        call(name)
    except ToolError as error:
        print(error)
"""


async def test_calls_are_answered_by_functions(bus: Place) -> None:
    async with bus.client() as client:
        result = await client.run(Job(lang="py", code=CALLS), tools={"add": add, "refuse": refuse, "fault": fault})
    lines = [str([i + 0.5 for i in range(40)]), "not today", "the tool failed with ZeroDivisionError", ""]
    assert (result.status, result.stdout.split("\n")) == ("ok", lines), result


async def test_calls_beside_output(bus: Place) -> None:
    """Calls of tools that have no function come as events, to be answered by hand."""
    code = "import os\nfrom runnerd_tools import call\nos.write(1, b'one')\nprint(call('add', a=1, b=2), call('ask', q='?'))"
    async with bus.client() as client:
        seen: list[Any] = []
        async for event in client.stream(Job(lang="py", code=code, tools=("add", "ask")), tools={"add": add}):
            seen.append(event)
            if isinstance(event, ToolCall):
                assert (event.name, event.arguments) == ("ask", '{"q": "?"}')
                await client.answer(event, {"answer": [1, None]})
                with pytest.raises(Conflict):
                    await client.answer(event, "twice")
        assert isinstance(seen[-1], Result)
        assert seen[-1].stdout == "one3 {'answer': [1, None]}\n"
        assert "".join(event.text for event in seen if isinstance(event, Output)) == seen[-1].stdout


async def test_a_dialogue(bus: Place) -> None:
    code = "while True:\n    try: name = input('name? ')\n    except EOFError: break\n    print('hello', name, flush=True)"
    names = [b"one\n", "zwölf 雪\n".encode(), b""]
    async with bus.client() as client:
        async with client.submit(Job(lang="py", code=code, interactive=True), stream=True) as submission:
            said = ""
            async for event in submission.events():
                if isinstance(event, Output):
                    said += event.text
                if names and said.count("name? ") == 4 - len(names) and said.endswith("? "):
                    name = names.pop(0)
                    await submission.feed(name, end=not name)
            result = await submission.result()
        assert result.stdout == "name? hello one\nname? hello zwölf 雪\nname? "
        with pytest.raises(Conflict, match="has ended"):
            await submission.feed(b"late")


async def test_much_input(bus: Place) -> None:
    """Pieces arrive once each, in their order, however slowly the program reads."""
    code = (
        "import sys, time, zlib\n"
        "count = crc = 0\n"
        "while data := sys.stdin.buffer.read1(1 << 20):\n"
        "    time.sleep(0.002)\n"
        "    count, crc = count + len(data), zlib.crc32(data, crc)\n"
        "print(count, crc)"
    )
    crc = 0
    async with bus.client() as client, client.submit(Job(lang="py", code=code, interactive=True)) as submission:
        for number in range(64):
            piece = bytes([number]) * 100_000
            crc = zlib.crc32(piece, crc)
            await submission.feed(piece)
        await submission.feed(b"", end=True)
        result = await submission.result()
    assert (result.status, result.stdout) == ("ok", f"6400000 {crc}\n"), result


async def test_refusals(bus: Place) -> None:
    async with bus.client() as client, bus.client("other", Patience(answer_s=0.3, connect_s=30.0)) as stranger:
        job = Job(id=new_id(), lang="py", code="from runnerd_tools import call\nprint(call('ask'))", tools=("ask",))
        async with client.submit(job) as submission:
            events = submission.events()
            call = await anext(events)
            assert isinstance(call, ToolCall)
            with pytest.raises(Saturated):  # nobody says anything to who has no such job
                await stranger.answer(msgspec.structs.replace(call, tenant="other"), 1)
            with pytest.raises(Conflict):
                await client.answer(msgspec.structs.replace(call, call="999"), 1)
            with pytest.raises(OverLimit):
                await client.answer(call, "x" * 100_000)
            with pytest.raises(Rejected, match="JSON"):
                await client._bus.answer(call.tenant, call.id, call.call, b"nonsense", failed=False)
            with pytest.raises(Rejected, match="interactive"):
                await submission.feed(b"x")
            await client.answer(call, "fine")
            result = await submission.result()
            assert result.stdout == "fine\n"
            with pytest.raises(Conflict, match="has ended"):
                await client.answer(call, 1)


async def test_answers_that_can_not_be_passed_on(bus: Place) -> None:
    async def long() -> str:
        return "x" * 200_000

    async def odd() -> object:
        return object()

    code = (
        "from runnerd_tools import ToolError, call\n"
        "for name in ('long', 'odd'):\n"
        "    try: call(name)\n"
        "    except ToolError as error: print(str(error)[:40])"
    )
    async with bus.client() as client:
        result = await client.run(Job(lang="py", code=code), tools={"long": long, "odd": odd})
    assert result.stdout == "its answer could not be passed on: an an\nthe tool failed with TypeError\n", result


async def test_a_call_that_is_larger_than_a_message(tmp_path: Path, rabbitmq: Broker) -> None:
    code = (
        "from runnerd_tools import ToolError, call\n"
        "try: call('add', a='\"' * 600_000, b=1)\n"
        "except ToolError as error: print(error)\n"
        "print(call('add', a=1, b=2))"
    )
    async with place("nats", tmp_path, rabbitmq, "tools.bytes=4000000") as bus, bus.client() as client:
        result = await client.run(Job(lang="py", code=code), tools={"add": add})
    assert result.stdout.startswith("the call is larger than a message of this bus"), result
    assert result.stdout.endswith("\n3\n"), result


async def test_a_client_that_goes_away(tmp_path: Path, rabbitmq: Broker) -> None:
    """A call that nobody can hear has that as its answer, where the bus knows."""
    code = "from runnerd_tools import ToolError, call\ninput()\ntry: call('add')\nexcept ToolError as error: print(error)"
    job = Job(id=new_id(), lang="py", code=code, tools=("add",), interactive=True)
    async with place("rabbitmq", tmp_path, rabbitmq) as bus, bus.client() as other:
        async with bus.client() as client, client.submit(job):
            while await client.status(job.id) != "running":
                await asyncio.sleep(0.01)
        await other.feed(job.id, b"\n", end=True)
        result = await other.wait(job.id)
    assert result.stdout == "nobody listens who could answer\n", result


KILLED = """
from runnerd_tools import ToolError, call
try:
    call("wait")
except ToolError as error:
    print(error)
print("and on")
"""


@pytest.mark.parametrize("kind", KILLABLE)
async def test_a_broker_that_is_killed_while_a_call_is_open(tmp_path: Path, rabbitmq: Broker, kind: str) -> None:
    """The program is told in time, and the job ends with a result that its submitter gets."""
    called, killed = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        called.set()
        await killed.wait()
        await asyncio.Event().wait()

    async with place(kind, tmp_path, rabbitmq, "tools.answer_s=2") as bus, bus.client() as client, asyncio.TaskGroup() as tasks:
        running = tasks.create_task(run(client, Job(id=new_id(), lang="py", code=KILLED), wait))
        await called.wait()
        await bus.server.kill()
        killed.set()
        await bus.server.start()
        result = await running
    assert result.stdout == "nobody answered within 2 s (tools.answer_s)\nand on\n", result


async def run(client: Client, job: Job, wait: Any) -> Result:
    return await client.run(job, tools={"wait": wait})


@pytest.mark.parametrize("kind", KILLABLE)
async def test_an_answer_outlives_a_broker_that_is_killed(tmp_path: Path, rabbitmq: Broker, kind: str) -> None:
    """It is sent until a daemon has it."""
    called, killed = asyncio.Event(), asyncio.Event()

    async def wait() -> str:
        called.set()
        await killed.wait()
        return "patience"

    code = "from runnerd_tools import call\nprint(call('wait'))"
    async with place(kind, tmp_path, rabbitmq, "tools.answer_s=120") as bus, bus.client() as client, asyncio.TaskGroup() as tasks:
        running = tasks.create_task(run(client, Job(id=new_id(), lang="py", code=code), wait))
        await called.wait()
        await bus.server.kill()
        killed.set()
        await bus.server.start()
        result = await running
    assert result.stdout == "patience\n", result


NONSENSE = ("stdin", "stdin.acme", "stdin.acme.a b", "stdin.acme.x.y", "tool.acme.x", "tool.acme.x.1.2", "tool.a*.x.1", "tool.acme.x.1")


async def test_nonsense_harms_nobody(bus: Place) -> None:
    """Without a way back, with one that may not be taken, to no job, of any size."""
    if bus.kind == "rabbitmq":
        async with rabbitmq_client(bus.url) as raw:
            for key in NONSENSE:
                for reply_to in (None, "rd.jobs.std", "rd.dead", raw.queue.name):
                    for body in (b"", b"\xff" * 100_000):
                        with suppress(PublishError):  # to none of the daemon's
                            await raw.send(body, key, exchange="rd.ctl", reply_to=reply_to, headers={"rd-eof": [1], "rd-failed": 1})
    else:
        async with nats_client(bus.url) as raw_nats:
            for key in NONSENSE:
                if " " not in key and "*" not in key:
                    for reply in ("", "$JS.API.STREAM.DELETE.RD_JOBS", "rd.v1.run.acme.py", raw_nats.new_inbox()):
                        await raw_nats.publish(f"rd.v1.{key}", b"\xff" * 100_000, reply=reply, headers={"rd-failed": "\xff"})
            await raw_nats.flush()
    async with bus.client() as client:
        result = await client.run(Job(lang="py", code="from runnerd_tools import call\nprint(call('add', a=1, b=2))"), tools={"add": add})
        assert (result.status, result.stdout) == ("ok", "3\n"), result
