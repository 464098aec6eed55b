"""What RabbitMQ costs: jobs that do nothing, against a bare aio-pika consumer with confirms."""

import asyncio
import itertools
import time

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from .bare_rabbitmq import QUEUE
from .brokers import have_rabbitmq, rabbitmq_server
from .bus import NOOP, scratch
from .measures import Size
from .samples import Samples
from .workers import RESULT, SLOTS, Awaited, Side, Worker, compare, timed, worker

REPLIES = "rd.reply.bench"


class Submitter:
    """Submits jobs and awaits their answers."""

    def __init__(self, channel: aio_pika.abc.AbstractChannel) -> None:
        self._channel = channel
        self._numbers = itertools.count()
        self._answers = Awaited()

    async def listen(self) -> None:
        """Begin to count answers."""
        replies = await self._channel.declare_queue(REPLIES, exclusive=True)
        await replies.consume(self._answered, no_ack=True)

    async def _answered(self, message: AbstractIncomingMessage) -> None:
        self._answers.came(message.body)

    async def submit(self, queue: str) -> None:
        """One job, with an id of its own."""
        name = f"job-{next(self._numbers)}"
        message = aio_pika.Message(
            NOOP, message_id=name, correlation_id=name, reply_to=REPLIES, delivery_mode=aio_pika.DeliveryMode.PERSISTENT
        )
        await self._channel.default_exchange.publish(message, queue)

    async def answered(self, queue: str) -> None:
        """One job and its answer."""
        self._answers.expect(1)
        await self.submit(queue)
        await self._answers.all()

    async def drained(self, queue: str, count: int, taker: Worker) -> float:
        """A backlog, made while its taker sleeps; seconds from its waking to the last answer."""
        self._answers.expect(count)
        taker.pause()
        try:
            for left in range(count, 0, -64):
                await asyncio.gather(*(self.submit(queue) for _ in range(min(64, left))))
        finally:
            begin = time.perf_counter()
            taker.resume()
        await self._answers.all()
        return time.perf_counter() - begin

    def side(self, name: str, taker: Worker, queue: str) -> Side:
        """Whoever takes what comes to `queue`."""
        return Side(name, taker, once=lambda: timed(lambda: self.answered(queue)), burst=lambda count: self.drained(queue, count, taker))


async def rabbitmq(samples: Samples, size: Size) -> None:
    """Jobs that do nothing, with their records on disk, against a bare consumer with confirms."""
    if not have_rabbitmq():
        samples.notes["rabbitmq"] = "left out: apt-get install rabbitmq-server"
        return
    async with scratch() as directory, rabbitmq_server(directory) as url:
        flags = (
            f"state_dir={directory}/state",
            f"scheduler.slots={SLOTS}",
            f"languages.py.warm={SLOTS}",
            "store.kv.kind=disk",
            "store.blob.kind=memory",
            f"ingress.rabbitmq.url={url}",
            "ingress.rabbitmq.topology=ensure",
        )
        async with (
            await aio_pika.connect(url) as connection,
            worker(directory, "noop", "rabbitmq", *flags) as daemon,
            worker(directory, "bare_rabbitmq", url, str(SLOTS), RESULT) as bare,
        ):
            submitter = Submitter(await connection.channel(publisher_confirms=True))
            await submitter.listen()
            sides = (submitter.side("rabbitmq_noop", daemon, "rd.jobs.std"), submitter.side("rabbitmq_bare", bare, QUEUE))
            await compare(samples, "rabbitmq", *sides, rounds=size.rounds, turns=size.turns, jobs=size.bus_jobs)
