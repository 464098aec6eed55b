"""Opens the RabbitMQ ingress over a daemon for tests, with a client of its own, and counts what it leaves behind."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
from aio_pika.abc import AbstractIncomingMessage
from runnerd_plugins.ingress.rabbitmq import RabbitMq

from fake_services import FakeServices
from nats_fixture import wait_until
from rabbitmq_fixture import Broker
from runnerd import Job, Result, decode_result, encode, new_id

JOBS = "rd.jobs.std"


@asynccontextmanager
async def opened(services: Any, url: str, *, alone: bool = True, **settings: Any) -> AsyncIterator[None]:
    """The ingress, open. No task of it is left when the block has ended; beside others, `alone` is off, as theirs come and go."""
    before = asyncio.all_tasks()
    async with RabbitMq(**{"url": url, "topology": "ensure", "drain_s": 30.0, "connect_s": 20.0, **settings}).open(services):
        yield
    await wait_until(lambda: not alone or not [task for task in asyncio.all_tasks() - before if not task.done()], "no task is left")


class Client:
    """Who submits: a connection, a queue for answers, and all that came there."""

    def __init__(self, connection: Any, channel: Any, queue: Any) -> None:
        self.connection = connection
        self.channel = channel
        self.queue = queue
        self.got: list[AbstractIncomingMessage] = []

    async def send(self, body: bytes, key: str = "job.acme.std.py", *, exchange: str = "rd.jobs", **properties: Any) -> str:
        """Publish; returns the correlation id."""
        properties = {"correlation_id": new_id(), "reply_to": self.queue.name, "delivery_mode": 2, **properties}
        message = aio_pika.Message(body, **properties)
        target = await self.channel.get_exchange(exchange, ensure=False) if exchange else self.channel.default_exchange
        await target.publish(message, key)
        return properties["correlation_id"] or ""

    async def answer(self, correlation: str, kind: str = "rd.result") -> AbstractIncomingMessage:
        """Wait for the answer to one message."""
        await wait_until(lambda: self.answers(correlation, kind), f"an answer of type {kind}", 60)
        return self.answers(correlation, kind)[0]

    def answers(self, correlation: str, kind: str = "") -> list[AbstractIncomingMessage]:
        return [msg for msg in self.got if msg.correlation_id == correlation and kind in ("", msg.type)]

    async def run(self, code: str, key: str = "job.acme.std.py", **properties: Any) -> AbstractIncomingMessage:
        return await self.answer(await self.send(encode(Job(code=code)), key, **properties))

    async def ask(self, key: str, **properties: Any) -> AbstractIncomingMessage:
        """A question about a job."""
        correlation = await self.send(b"", key, exchange="rd.ctl", **properties)
        await wait_until(lambda: self.answers(correlation), "an answer")
        return self.answers(correlation)[0]


@asynccontextmanager
async def client(url: str) -> AsyncIterator[Client]:
    """A client with an exclusive queue for answers."""
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel(on_return_raises=True)
        queue = await channel.declare_queue(exclusive=True)
        made = Client(connection, channel, queue)

        async def receive(message: AbstractIncomingMessage) -> None:
            made.got.append(message)

        await queue.consume(receive, no_ack=True)
        yield made


class Bench:
    """A virtual host, a daemon, a client."""

    def __init__(self, node: Broker, vhost: str, client: Client, services: FakeServices) -> None:
        self.node = node
        self.vhost = vhost
        self.client = client
        self.services = services

    @property
    def url(self) -> str:
        return self.node.url(self.vhost)

    async def until(self, queue: str = JOBS, **numbers: int) -> None:
        await self.node.until(self.vhost, queue, **numbers)

    async def letters(self) -> list[AbstractIncomingMessage]:
        """Take all dead letters."""
        queue = await self.client.channel.get_queue("rd.dead")
        found = []
        while (message := await queue.get(no_ack=True, fail=False)) is not None:
            found.append(message)
        return found


@asynccontextmanager
async def bench(node: Broker, *, slots: int = 4, **settings: Any) -> AsyncIterator[Bench]:
    """Everything, open. At the end no queue of jobs has a message left, and no connection is there."""
    services = FakeServices(slots=slots)
    settings = {"classes": ("std", "hi"), "retry_delays_s": (1,), **settings}  # each queue costs its time to make
    async with node.vhost() as vhost, client_after(node, vhost, services, settings) as made:
        yield made
        services.release()
        for cls in settings["classes"]:
            await made.until(f"rd.jobs.{cls}", ready=0, unacked=0)


@asynccontextmanager
async def client_after(node: Broker, vhost: str, services: FakeServices, settings: dict[str, Any]) -> AsyncIterator[Bench]:
    async with opened(services, node.url(vhost), **settings), client(node.url(vhost)) as made:
        yield Bench(node, vhost, made, services)


def result_of(message: AbstractIncomingMessage) -> Result:
    return decode_result(message.body, message.content_type or "")


def headers_of(message: AbstractIncomingMessage) -> dict[str, Any]:
    return dict(message.headers)


async def held(condition: Callable[[], Any], what: str) -> None:
    await wait_until(condition, what, 60)
