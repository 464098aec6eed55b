"""RabbitMQ, with durable queues for answers and output, which outlive a killed broker."""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from chaos.bus import CALM_S, TENANT, Answer, Away, Sending
from rabbitmq_fixture import Broker
from runnerd import Job, Result, decode_result, encode

QUEUES = ("rd.jobs.std", "rd.retry.1s", "rd.retry.2s", "rd.ctl")
ANSWERS, OUTPUT, LETTERS = "rd.reply.answers", "rd.reply.output", "rd.dead"
ASK_S = 5.0
T = TypeVar("T")


class RabbitBus:
    kind = "rabbitmq"
    sure = True

    def __init__(self, node: Broker, vhost: str) -> None:
        self.port = node.port
        self.answers: list[Answer] = []
        self.events = 0
        self.sent: set[str] = set()
        self._node = node
        self._vhost = vhost
        self._copies = itertools.count()
        self._channel: Any = None
        self._asked: dict[str, asyncio.Future[AbstractIncomingMessage]] = {}
        self._questions = ""
        self._reading = asyncio.Event()
        self._reading.set()
        self.up = asyncio.Event()

    def flags(self, port: int) -> tuple[str, ...]:
        settings = {
            "url": f"amqp://guest:guest@127.0.0.1:{port}/{self._vhost}",
            "topology": "ensure",
            "classes": '["std"]',
            "retry_delays_s": "[1, 2]",
            "heartbeat_s": 1,
            "rebuild_s": 0.5,
            "drain_s": 20,
        }
        return tuple(f"ingress.rabbitmq.{name}={value}" for name, value in settings.items())

    async def keep(self) -> None:
        """Be connected, again and again."""
        while True:
            try:
                async with asyncio.timeout(10):
                    connection = await aio_pika.connect(self._node.url(self._vhost))
                async with connection:
                    await self._live(connection)
            except asyncio.CancelledError:
                if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                    raise
            except Exception:  # noqa: BLE001 - the library says by any error that there is no broker
                pass
            finally:
                self._channel = None
                self.up.clear()
            await asyncio.sleep(0.2)

    async def _live(self, connection: Any) -> None:
        channel = await connection.channel(on_return_raises=True)
        await channel.set_qos(prefetch_count=20)
        for name, receive in ((ANSWERS, self._answer), (OUTPUT, self._event)):
            queue = await channel.declare_queue(name, durable=True)
            await queue.consume(receive)
        questions = await channel.declare_queue(exclusive=True)
        await questions.consume(self._said, no_ack=True)
        self._questions = questions.name
        self._channel = channel
        self.up.set()
        closing: asyncio.Future[Any] = connection.transport.connection.closing
        await asyncio.wait([closing])

    async def _answer(self, message: AbstractIncomingMessage) -> None:
        await self._reading.wait()
        if message.type == "rd.result":
            name = message.correlation_id or ""
            self.answers.append(Answer(_result(message), cast(Sending, name.partition("-")[0]), name, time.monotonic()))
        await message.ack()

    async def _event(self, message: AbstractIncomingMessage) -> None:
        await self._reading.wait()
        self.events += 1
        await message.ack()

    async def _said(self, message: AbstractIncomingMessage) -> None:
        asked = self._asked.pop(message.correlation_id or "", None)
        if asked is not None and not asked.done():
            asked.set_result(message)

    async def start(self) -> None:
        await self._node.start()

    async def kill(self) -> None:
        await self._node.kill()

    async def submit(self, job: str, code: str, sending: Sending, *, streams: bool = False) -> None:
        name = f"{sending}-{job}-{next(self._copies)}"
        message = aio_pika.Message(
            encode(Job(code=code)),
            message_id=job,
            correlation_id=name,
            reply_to=ANSWERS,
            delivery_mode=2,
            headers={"rd-stream-to": OUTPUT} if streams else {},
        )
        await self._publish("rd.jobs", message, f"job.{TENANT}.std.py")
        self.sent.add(name)

    async def _publish(self, exchange: str, message: aio_pika.Message, key: str) -> None:
        channel = self._channel
        if channel is None:
            raise Away("no connection")
        target = await channel.get_exchange(exchange, ensure=False)
        await _tried(target.publish(message, key))

    async def cancel(self, job: str) -> Result | None:
        answer = await self._ask(job, "cancel")
        return answer if isinstance(answer, Result) else None

    async def status(self, job: str) -> Result | str | None:
        return await self._ask(job, "status")

    async def _ask(self, job: str, verb: str) -> Result | str | None:
        name = f"ask-{next(self._copies)}"
        asked = self._asked[name] = asyncio.get_running_loop().create_future()
        message = aio_pika.Message(b"", correlation_id=name, reply_to=self._questions, headers={"accept": "application/json"})
        try:
            await self._publish("rd.ctl", message, f"ctl.{TENANT}.{job}.{verb}")
            answer: AbstractIncomingMessage = await _tried(asked)
        finally:
            self._asked.pop(name, None)
        if answer.type == "rd.result":
            return _result(answer)
        if answer.headers.get("Rd-Error-Code") == 404:
            return None
        if answer.type == "rd.status":
            return str(json.loads(answer.body)["state"])
        raise Away(f"{answer.headers} {answer.body[:200]!r}")

    def slow(self, on: bool) -> None:
        if on:
            self._reading.clear()
        else:
            self._reading.set()

    async def published(self, _jobs: list[str]) -> dict[str, Result]:
        return {}

    async def left(self) -> dict[str, int]:
        found = {}
        for name in QUEUES:
            ready, unacknowledged, _ = await self._node.queue(self._vhost, name)
            found |= {f"{name} ready": ready, f"{name} unacknowledged": unacknowledged}
        return {name: count for name, count in found.items() if count}

    async def letters(self) -> dict[str, str]:
        queue = await self._channel.get_queue(LETTERS)
        found: dict[str, str] = {}
        while (message := await queue.get(no_ack=True, fail=False)) is not None:
            found[str(message.headers["Rd-Job-Id"])] = str(message.headers.get("Rd-Dead-Reason", ""))
        return found

    async def collected(self) -> None:
        for name in (ANSWERS, OUTPUT):
            await self._node.until(self._vhost, name, ready=0, unacked=0)

    async def redelivered(self) -> int:
        return 0  # the broker does not count them


async def _tried(act: Awaitable[T]) -> T:
    """What it gives. Raises Away, for the library tells a lost connection by any error, CancelledError among them."""
    try:
        async with asyncio.timeout(ASK_S):
            return await act
    except asyncio.CancelledError:
        if asyncio.current_task().cancelling():  # type: ignore[union-attr]
            raise
        raise Away("the connection was lost") from None
    except Exception as error:
        raise Away(str(error)) from error


def _result(message: AbstractIncomingMessage) -> Result:
    return decode_result(message.body, message.content_type or "")


@asynccontextmanager
async def rabbitmq_bus(node: Broker) -> AsyncIterator[RabbitBus]:
    async with node.vhost() as vhost:
        bus = RabbitBus(node, vhost)
        keeping = asyncio.ensure_future(bus.keep())
        try:
            async with asyncio.timeout(CALM_S):
                await bus.up.wait()
            yield bus
        finally:
            keeping.cancel()
            await asyncio.wait([keeping])
            if not node.running:
                await node.start()  # a run that failed left it dead; others use it as well
