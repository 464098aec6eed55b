"""Opens the NATS ingress over a fake daemon, and counts what it leaves behind."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from runnerd_plugins.ingress.nats import Nats

from fake_services import FakeServices
from nats_fixture import NatsServer, nats_client, nats_server
from runnerd import MSGPACK, Job, Result, decode_result, encode


@asynccontextmanager
async def opened(services: FakeServices, url: str, **settings: Any) -> AsyncIterator[None]:
    """The ingress, open. No task of it is left when the block has ended."""
    before = asyncio.all_tasks()
    async with Nats(**{"url": url, "drain_s": 20.0, "connect_s": 10.0, **settings}).open(services):
        yield
    left = {task for task in asyncio.all_tasks() - before if not task.done()}
    for _ in range(100):  # the library's own tasks end in their next steps
        if not left:
            break
        await asyncio.sleep(0.01)
        left = {task for task in left if not task.done()}
    assert not left, left


class Bench:
    """A server, a daemon, a client."""

    def __init__(self, server: NatsServer, client: Client, services: FakeServices) -> None:
        self.server = server
        self.client = client
        self.services = services

    async def ask(self, subject: str, body: bytes = b"", headers: dict[str, str] | None = None, timeout: float = 30) -> Msg:
        return await self.client.request(subject, body, timeout=timeout, headers=headers)

    async def run(self, code: str, headers: dict[str, str] | None = None, lang: str = "py", tenant: str = "acme") -> Msg:
        return await self.ask(f"rd.v1.run.{tenant}.{lang}", encode(Job(code=code)), headers)

    async def stats(self) -> dict[str, Any]:
        """`data` of the run endpoint, from a STATS answer."""
        endpoints = json.loads((await self.ask("$SRV.STATS.runnerd")).data)["endpoints"]
        data: dict[str, Any] = endpoints[0]["data"]
        return data

    async def counted(self, what: str, least: int = 1) -> int:
        """Wait until `what` was counted `least` times."""
        async with asyncio.timeout(30):
            while True:
                count: int = (await self.stats())["counts"].get(what, 0)
                if count >= least:
                    return count
                await asyncio.sleep(0.02)

    async def all_done(self) -> None:
        """Wait until no job is in hand."""
        async with asyncio.timeout(30):
            while (await self.stats())["in_hand"]:
                await asyncio.sleep(0.02)


@asynccontextmanager
async def bench(directory: Any, *, slots: int = 4, server: dict[str, Any] | None = None, **settings: Any) -> AsyncIterator[Bench]:
    """Everything, open. At the end the server has no connection left but the client's."""
    services = FakeServices(slots=slots)
    async with nats_server(directory / "server", **(server or {})) as running, nats_client(running.url) as client:
        with contextlib.suppress(NoRespondersError):
            await client.request("nobody.there")  # the client's own task for answers is there before we count
        async with opened(services, running.url, **settings):
            yield Bench(running, client, services)
        services.release()
        assert services.running == {}
        async with asyncio.timeout(10):
            while [each for each in await running.connections() if each.get("name", "").startswith("runnerd/")]:
                await asyncio.sleep(0.02)


def result_of(msg: Msg) -> Result:
    return decode_result(msg.data, (msg.headers or {}).get("Content-Type", ""))


def packed(job: Job) -> bytes:
    return encode(job, MSGPACK)
