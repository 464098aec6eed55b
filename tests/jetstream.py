"""A server with JetStream, daemons that take durable jobs from it, and a client that submits them."""

import asyncio
import contextlib
import hashlib
import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from runnerd_plugins.ingress.nats import Nats
from runnerd_plugins.ingress.nats.jetstream.settings import JetStream
from runnerd_plugins.stores.memory import Memory

from fake_executor import FakeExecutor, a_language
from nats_fixture import NatsServer, nats_client, nats_server
from runnerd import Ingress, Job, KeyValues, Result, decode_result, encode
from runnerd.config import load_config
from runnerd.daemon import Daemon, open_daemon
from runnerd.plugins import find_plugins

NS = 1_000_000_000
FAST: Mapping[str, Any] = {"streams": "ensure", "ack_wait_s": 2.0, "again_s": 0.05, "again_most_s": 0.2}


class Executor(FakeExecutor):
    level = "strong"


class Store(Memory, tag="given", frozen=True, kw_only=True):
    """A store of the test's, which several daemons share."""

    kv: Any = None

    @asynccontextmanager
    async def open_kv(self) -> AsyncIterator[KeyValues]:
        yield self.kv


@asynccontextmanager
async def a_daemon(
    ingress: Ingress,
    state: Path,
    flags: tuple[str, ...],
    executor: FakeExecutor,
    kv: KeyValues | None = None,
    codes: tuple[str, ...] = ("py", "js"),
) -> AsyncIterator[Daemon]:
    """A daemon with one ingress, and programs in memory; `kv` in place of the store that the flags say."""
    plugins = find_plugins()
    languages = {code: a_language(code, run=("sh", "{file}"), version=("sh", "-c", "echo 1")) for code in codes}
    plugins = msgspec.structs.replace(plugins, languages=languages)
    flags = (f"state_dir={state}", "pool.enabled=no", "store.blob.kind=memory", *flags)
    settings = load_config(plugins, flags=flags, environ={}, directory=state.parent).settings
    store = settings.store if kv is None else msgspec.structs.replace(settings.store, kv=Store(kv=kv))
    settings = msgspec.structs.replace(settings, ingress={str(ingress.__struct_config__.tag): ingress}, store=store)

    @asynccontextmanager
    async def given(*_: Any) -> AsyncIterator[FakeExecutor]:
        yield executor

    async with open_daemon(settings, plugins, open_executor=given) as daemon:
        yield daemon


class Durable:
    """One server, one store, a client; daemons come and go."""

    def __init__(self, directory: Path, server: NatsServer, client: Client, kv: KeyValues) -> None:
        self.directory = directory
        self.server = server
        self.client = client
        self.kv = kv
        self.daemons = 0

    @asynccontextmanager
    async def daemon(
        self,
        executor: FakeExecutor | None = None,
        *,
        slots: int = 4,
        grace_s: float = 20.0,
        flags: tuple[str, ...] = (),
        codes: tuple[str, ...] = ("py", "js"),
        ingress: Mapping[str, Any] | None = None,
        **jetstream: Any,
    ) -> AsyncIterator[Daemon]:
        """A daemon on the server. Leaving the block drains it."""
        self.daemons += 1
        state = self.directory / f"daemon{self.daemons}"
        flags = (f"scheduler.slots={slots}", f"scheduler.grace_s={grace_s}", *flags)
        kv = None if any(flag.startswith("store.kv.") for flag in flags) else self.kv
        nats = Nats(url=self.server.url, drain_s=grace_s, jetstream=JetStream(**{**FAST, **jetstream}), **(ingress or {}))
        async with a_daemon(nats, state, flags, executor or Executor(), kv, codes) as daemon:
            yield daemon
            await daemon.drain()

    async def api(self, what: str, request: object = None) -> dict[str, Any]:
        """A request to JetStream's own API."""
        msg = await self.client.request(f"$JS.API.{what}", b"" if request is None else json.dumps(request).encode(), timeout=10)
        answer: dict[str, Any] = json.loads(msg.data)
        return answer

    async def submit(
        self, code: str, job_id: str = "", *, tenant: str = "acme", cls: str = "std", lang: str = "py", **headers: str
    ) -> dict[str, Any]:
        """Submit a job with the id in its header; the server's answer. `rd_reply_to` stands for Rd-Reply-To."""
        named = {name.replace("_", "-").title(): value for name, value in headers.items()}
        named |= {"Rd-Job-Id": job_id} if job_id else {}
        return await self.send(f"rd.v1.job.{tenant}.{cls}.{lang}", encode(Job(code=code)), named)

    async def store(self, body: bytes, job_id: str, *, size: int = 50_000, tenant: str = "acme") -> dict[str, str]:
        """Store a job's body in parts; the headers that announce it."""
        pieces = [body[begin : begin + size] for begin in range(0, len(body), size)]
        for number, piece in enumerate(pieces, 1):
            assert (await self.send(f"rd.v1.part.{tenant}.{job_id}.{number}", piece))["stream"] == "RD_PART"
        return {"Rd-Parts": str(len(pieces)), "Rd-Body-Bytes": str(len(body)), "Rd-Body-Sha256": hashlib.sha256(body).hexdigest()}

    async def send(self, subject: str, body: bytes, headers: dict[str, str] | None = None) -> dict[str, Any]:
        msg = await self.client.request(subject, body, timeout=10, headers=headers)
        answer: dict[str, Any] = json.loads(msg.data)
        return answer

    async def stored(self, subject: str, stream: str = "RD_RES") -> Msg | None:
        """The last message under a subject, None where there is none."""
        msg = await self.client.request(f"$JS.API.DIRECT.GET.{stream}", json.dumps({"last_by_subj": subject}).encode(), timeout=10)
        return None if (msg.headers or {}).get("Status") == "404" else msg

    async def result(self, job_id: str, tenant: str = "acme") -> Result:
        """The published result, when it is there."""
        async with asyncio.timeout(60):
            while (msg := await self.stored(f"rd.v1.res.{tenant}.{job_id}")) is None:
                await asyncio.sleep(0.02)
        return decode_result(msg.data, (msg.headers or {})["Content-Type"])

    async def control(self, job_id: str, verb: str, tenant: str = "acme") -> dict[str, Any]:
        """Ask about a job, or cancel it."""
        msg = await self.client.request(f"rd.v1.ctl.{tenant}.{job_id}.{verb}", b"", timeout=30)
        answer: dict[str, Any] = json.loads(msg.data)
        return answer

    async def deliveries(self, consumer: str = "rd-std") -> int:
        """How many messages a consumer has delivered, the same one again included."""
        count: int = (await self.api(f"CONSUMER.INFO.RD_JOBS.{consumer}"))["delivered"]["consumer_seq"]
        return count

    async def idle(self, requests: int) -> None:
        """Wait until so many requests wait at the consumers."""
        consumers = ("RD_JOBS.rd-hi", "RD_JOBS.rd-std", "RD_JOBS.rd-low", "RD_LATER.rd-due")
        async with asyncio.timeout(60):
            while sum([(await self.api(f"CONSUMER.INFO.{each}"))["num_waiting"] for each in consumers]) != requests:
                await asyncio.sleep(0.02)

    async def messages(self, stream: str) -> int:
        """How many messages a stream has."""
        state = (await self.api(f"STREAM.INFO.{stream}"))["state"]
        count: int = state["messages"]
        return count

    async def drained(self) -> None:
        """Wait until no job is in the stream, so that each was acked."""
        async with asyncio.timeout(60):
            while await self.messages("RD_JOBS"):
                await asyncio.sleep(0.02)


@asynccontextmanager
async def durable(directory: Path, **server: Any) -> AsyncIterator[Durable]:
    """Everything but daemons."""
    store = {"jetstream": {"store_dir": str(directory / "jetstream")}}
    async with (
        nats_server(directory / "server", **{**store, **server}) as running,
        nats_client(running.url) as client,
        Memory().open_kv() as kv,
    ):
        yield Durable(directory, running, client, kv)


class Process:
    """A daemon that can be killed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    async def end(self, number: int) -> int:
        """Send a signal and wait for the end; the exit code."""
        self._process.send_signal(number)
        return await self._process.wait()


@asynccontextmanager
async def process(bus: Durable, name: str, *flags: str, **jetstream: Any) -> AsyncIterator[Process]:
    """A daemon in a process of its own, which takes jobs. It is killed when the block ends."""
    settings = {"url": bus.server.url, "jetstream": {**FAST, **jetstream}}
    arguments = [str(Path(__file__).with_name("jetstream_daemon.py")), json.dumps(settings), str(bus.directory / name), *flags]
    started = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
    try:
        assert started.stdout is not None
        async with asyncio.timeout(60):
            while b"ready" not in (line := await started.stdout.readline()):
                assert line, "the daemon ended before it took jobs"
        yield Process(started)
    finally:
        with contextlib.suppress(ProcessLookupError):
            started.kill()
        await started.communicate()


@contextlib.asynccontextmanager
async def inbox(client: Client) -> AsyncIterator[tuple[str, list[Msg]]]:
    """A subject for answers, and the list of those that came."""
    came: list[Msg] = []

    async def receive(msg: Msg) -> None:
        came.append(msg)

    subject = client.new_inbox()
    subscription = await client.subscribe(subject, cb=receive)
    await client.flush()
    yield subject, came
    await subscription.unsubscribe()
