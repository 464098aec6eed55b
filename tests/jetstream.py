"""A server with JetStream, daemons that take durable jobs from it, and a client that submits them."""

import asyncio
import contextlib
import json
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
from runnerd import Job, KeyValues, Result, decode_result, encode
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
        self, executor: FakeExecutor | None = None, *, slots: int = 4, grace_s: float = 20.0, flags: tuple[str, ...] = (), **jetstream: Any
    ) -> AsyncIterator[Daemon]:
        """A daemon on the server. Leaving the block drains it."""
        executor = executor or Executor()
        self.daemons += 1
        plugins = find_plugins()
        plugins = msgspec.structs.replace(
            plugins, languages={code: a_language(code, run=("sh", "{file}"), version=("sh", "-c", "echo 1")) for code in ("py", "js")}
        )
        flags = (
            f"state_dir={self.directory}/daemon{self.daemons}",
            f"scheduler.slots={slots}",
            f"scheduler.grace_s={grace_s}",
            "pool.enabled=false",
            *flags,
        )
        settings = load_config(plugins, flags=flags, environ={}, directory=self.directory).settings
        nats = Nats(url=self.server.url, drain_s=grace_s, jetstream=JetStream(**{**FAST, **jetstream}))
        settings = msgspec.structs.replace(
            settings, ingress={"nats": nats}, store=msgspec.structs.replace(settings.store, kv=Store(kv=self.kv), blob=Memory())
        )

        @asynccontextmanager
        async def given(*_: Any) -> AsyncIterator[FakeExecutor]:
            yield executor

        async with open_daemon(settings, plugins, open_executor=given) as daemon:
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
