"""A connection to RabbitMQ with a queue for answers. When it is lost it is over, and the next question makes another."""

import asyncio
import re
import ssl
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any, TypeVar

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue
from aio_pika.exceptions import AMQPError, ChannelNotFoundEntity, DeliveryError, PublishError

from ..errors import IngressError, Saturated
from .bus import Lost
from .patience import Patience

T = TypeVar("T")
WAITING_MESSAGES = 65_536
"""Messages that may wait until a program takes them; output that comes then is lost, but the result has it."""
_PASSWORD = re.compile(r"//[^/@,]*@")


class Row:
    """Answers to one message, in the order in which they come."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[AbstractIncomingMessage | None] = asyncio.Queue(WAITING_MESSAGES)

    def put(self, message: AbstractIncomingMessage) -> None:
        """Add an answer. What is too much is dropped; the result is asked for then."""
        with suppress(asyncio.QueueFull):
            self._waiting.put_nowait(message)

    def lost(self) -> None:
        """No answer comes any more: the queue is gone with the connection."""
        while self._waiting.full():
            self._waiting.get_nowait()
        self._waiting.put_nowait(None)

    async def get(self, timeout_s: float) -> AbstractIncomingMessage | None:
        """The next answer; None where none came for so long. Raises Lost."""
        try:
            async with asyncio.timeout(timeout_s):
                message = await self._waiting.get()
        except TimeoutError:
            return None
        if message is None:
            raise Lost("the connection to RabbitMQ was lost")
        return message


class Link:
    """One connection and its queue for answers; answers go to the row of their correlation id."""

    def __init__(self, connection: Any, channel: AbstractChannel, queue: AbstractQueue, rows: dict[str, Row]) -> None:
        self._connection = connection
        self._rows = rows
        self.channel = channel
        self.queue = queue
        self.over = False

    async def begin(self) -> None:
        """Hear answers, and the end of the connection."""
        raw = await self.channel.get_underlay_channel()
        for closing in (self._connection.transport.connection.closing, raw.closing):  # its callbacks are for what we close ourselves
            closing.add_done_callback(self._end)
        await steady(self.queue.consume(self._receive, no_ack=True))

    async def forget(self, queue: AbstractQueue) -> None:
        """Delete a queue of ours, which otherwise ends with the connection."""
        if not self.over:
            with suppress(Lost, AMQPError, ConnectionError):  # the connection is about to go
                await steady(queue.delete(if_unused=False, if_empty=False))

    def missing(self, error: ChannelNotFoundEntity) -> Saturated:
        """The broker has closed the channel, as something is not there: say so."""
        self._end()
        return Saturated(f"{said(error).removeprefix('NOT_FOUND - ')}: `runnerd bus init` makes it")

    async def close(self) -> None:
        """Close the connection, and the queue with it."""
        self._end()
        await self._connection.close()

    def _end(self, closing: "asyncio.Future[Any] | None" = None) -> None:
        if closing is not None and not closing.cancelled():
            closing.exception()  # is nobody else's to look at
        if not self.over:
            self.over = True
            for row in self._rows.values():
                row.lost()

    async def _receive(self, message: AbstractIncomingMessage) -> None:
        row = self._rows.get(message.correlation_id or "")
        if row is not None:
            row.put(message)


class Links:
    """The link that there is, or a new one."""

    def __init__(self, url: str, tls: ssl.SSLContext | None, patience: Patience) -> None:
        self._urls = [each.strip() for each in url.split(",")]
        self._tls = tls
        self._patience = patience
        self._link: Link | None = None
        self._opening = asyncio.Lock()
        self.rows: dict[str, Row] = {}

    async def link(self) -> Link:
        """A link that was not lost. Raises Lost, naming each broker and the cause."""
        async with self._opening:
            if self._link is None or self._link.over:
                await self.close()
                self._link = await self._first()
            return self._link

    async def close(self) -> None:
        """Close what is open."""
        link, self._link = self._link, None
        if link is not None:
            with suppress(Lost):
                await steady(link.close())

    async def publish(self, message: aio_pika.Message, exchange: str, key: str) -> None:
        """Publish, and wait until the broker has it. Raises Saturated where no queue takes it, and Lost."""
        link = await self.link()
        message.reply_to = link.queue.name
        try:
            target = await link.channel.get_exchange(exchange, ensure=False)
            await steady(target.publish(message, key, timeout=self._patience.answer_s))
        except PublishError:
            raise Saturated(f"no queue takes {key}: is there a daemon, and `runnerd bus init` made its queues?") from None
        except DeliveryError:
            raise Saturated(f"the queue of {key} is full") from None
        except Lost:
            raise
        except ChannelNotFoundEntity as error:
            raise link.missing(error) from None
        except Exception as error:  # noqa: BLE001 - the library raises what it likes for a connection that goes away
            raise Lost(f"RabbitMQ did not take {key}: {said(error)}") from None

    async def listen(self, row: Row, exchange: str, key: str) -> tuple[Link, AbstractQueue]:
        """Have what comes to an exchange under a key put into a row, from now on, by a queue of its own. Raises Lost, Saturated."""
        link = await self.link()

        async def receive(message: AbstractIncomingMessage) -> None:
            row.put(message)

        try:
            queue = await steady(link.channel.declare_queue(exclusive=True, auto_delete=True))
            await steady(queue.bind(await link.channel.get_exchange(exchange, ensure=False), key))
            await steady(queue.consume(receive, no_ack=True))
        except Lost:
            raise
        except ChannelNotFoundEntity as error:
            raise link.missing(error) from None
        except Exception as error:  # noqa: BLE001 - the library raises what it likes for a connection that goes away
            raise Lost(f"can't listen to the exchange {exchange}: {said(error)}") from None
        return link, queue

    async def _first(self) -> Link:
        problems = []
        for url in self._urls:
            try:
                return await self._open(url)
            except IngressError as error:
                problems.append(str(error))
        raise Lost("; ".join(problems))

    async def _open(self, url: str) -> Link:
        shown = _PASSWORD.sub("//", url)
        connection = None
        try:
            async with asyncio.timeout(self._patience.connect_s):
                connection = aio_pika.Connection(
                    aio_pika.connection.make_url(url), ssl_context=self._tls, client_properties={"connection_name": "runnerd client"}
                )
                await connection.connect()
                channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
                link = Link(connection, channel, await channel.declare_queue(exclusive=True), self.rows)
                await link.begin()
                return link
        except BaseException as error:
            if connection is not None:
                await connection.close()
            if isinstance(error, TimeoutError):
                raise Lost(f"{shown}: no answer within {self._patience.connect_s:g} s") from None
            if isinstance(error, Exception):
                raise Lost(f"{shown}: no connection: {said(error)}") from None
            raise


async def steady(act: Awaitable[T]) -> T:
    """Await a call of the library, which tells a lost connection by CancelledError as well. Raises Lost then."""
    try:
        return await act
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise Lost("the connection to RabbitMQ was lost") from None


def said(error: BaseException) -> str:
    """What an error of the library says, in one line: some of them say nothing."""
    return str(error).partition("\n")[0].strip() or type(error).__name__
