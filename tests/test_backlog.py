"""A long backlog is worked off by a daemon whose memory does not grow: neither with what waits, nor with what it has done."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

import aio_pika
import pytest

from bench import machine
from chaos.ledger import Seen
from chaos.processes import Daemon, processes
from jetstream import Durable, durable
from rabbitmq_bench import JOBS as QUEUE
from rabbitmq_fixture import Broker
from redis_fixture import RedisServer
from runnerd import Job, encode

JOBS = 24_000
WARM = 6_000
"""Jobs until a daemon has all that it ever holds."""
MORE_MB = 12.0
"""What it may grow by with the others: 700 bytes a job would be too much."""
DAEMON_MB = 48.0
"""What it may grow by with all of them, from a start without any: a backlog in memory would be more."""
BODY = encode(Job(code="say"))


class Backlogged(Protocol):
    """A bus on which jobs wait."""

    kind: str
    flags: tuple[str, ...]

    async def fill(self) -> None:
        """Submit all jobs, where a daemon has been before."""
        ...

    async def empty(self) -> bool:
        """Whether each job is done, and none is there any more."""
        ...


class JetStreamBacklog:
    kind = "nats"

    def __init__(self, bus: Durable) -> None:
        self._bus = bus
        self.flags = (f"ingress.nats.url={bus.server.url}", "ingress.nats.jetstream.streams=ensure")

    async def fill(self) -> None:
        js = self._bus.client.jetstream(publish_async_max_pending=1000)
        for number in range(JOBS):
            await js.publish_async("rd.v1.job.acme.std.py", BODY, headers={"Rd-Job-Id": f"job{number}"})
        await js.publish_async_completed()
        assert await self._bus.messages("RD_JOBS") == JOBS

    async def empty(self) -> bool:
        return await self._bus.messages("RD_RES") == JOBS and not await self._bus.messages("RD_JOBS")


class RabbitBacklog:
    kind = "rabbitmq"

    def __init__(self, node: Broker, vhost: str) -> None:
        self._node = node
        self._vhost = vhost
        settings = {"url": node.url(vhost), "topology": "ensure", "classes": '["std"]', "retry_delays_s": "[1]"}
        self.flags = tuple(f"ingress.rabbitmq.{name}={value}" for name, value in settings.items())

    async def fill(self) -> None:
        async with await aio_pika.connect(self._node.url(self._vhost)) as connection:
            channel = await connection.channel(publisher_confirms=False)
            exchange = await channel.get_exchange("rd.jobs", ensure=False)
            for number in range(JOBS):
                await exchange.publish(aio_pika.Message(BODY, message_id=f"job{number}", delivery_mode=2), "job.acme.std.py")
            await self._node.until(self._vhost, QUEUE, ready=JOBS, unacked=0)

    async def empty(self) -> bool:
        return (await self._node.queue(self._vhost, QUEUE))[:2] == (0, 0)


@asynccontextmanager
async def on_jetstream(directory: Path, _: Broker) -> AsyncIterator[JetStreamBacklog]:
    async with durable(directory) as bus:
        yield JetStreamBacklog(bus)


@asynccontextmanager
async def on_rabbitmq(_: Path, node: Broker) -> AsyncIterator[RabbitBacklog]:
    async with node.vhost() as vhost:
        yield RabbitBacklog(node, vhost)


Opening = Callable[[Path, Broker], AbstractAsyncContextManager[Backlogged]]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("opening", [on_jetstream, on_rabbitmq], ids=["nats", "rabbitmq"])
async def test_a_backlog_takes_no_memory(tmp_path: Path, rabbitmq: Broker, opening: Opening) -> None:
    async with opening(tmp_path / "bus", rabbitmq) as bus, RedisServer(tmp_path / "redis") as redis, processes(tmp_path) as forks:
        flags = ("scheduler.slots=64", "store.kv.kind=redis", "store.kv.host=127.0.0.1", f"store.kv.port={redis.port}")
        first = await started(forks.start("first", bus.kind, tmp_path, *flags, *bus.flags))
        new = machine.rss_bytes(first.pid) / 1e6
        first.signal(signal.SIGTERM)
        assert await first.over() == 0  # it has made what the bus needs
        await bus.fill()
        daemon = await started(forks.start("second", bus.kind, tmp_path, *flags, *bus.flags))
        warm = await highest(daemon, tmp_path, WARM)
        worn = await highest(daemon, tmp_path, JOBS)
        while not await bus.empty():
            await asyncio.sleep(0.2)
        seen = Seen(tmp_path)
        assert {len(seen.starts[f"job{number}"]) for number in range(JOBS)} == {1}
        print(f"{bus.kind}: {new:.1f} MB at its start, {warm:.1f} MB after {WARM} jobs, {worn:.1f} MB after {JOBS}")
        assert worn <= warm + MORE_MB
        assert worn <= new + DAEMON_MB
        daemon.signal(signal.SIGTERM)
        assert await daemon.over() == 0


async def started(starting: Awaitable[Daemon]) -> Daemon:
    daemon = await starting
    await daemon.said("ready")
    return daemon


async def highest(daemon: Daemon, directory: Path, jobs: int) -> float:
    """The most memory that was seen, in MB, until so many jobs have run."""
    most, ran = 0.0, 0
    with (directory / "ledger").open() as ledger:
        while ran < jobs:
            assert daemon.code is None, (directory / "log").read_text()[-2000:]
            ran += sum(line.startswith("end ") for line in ledger)
            most = max(most, machine.rss_bytes(daemon.pid) / 1e6)
            await asyncio.sleep(0.2)
    return most
