"""One generation of what connects us to the broker: two connections and their channels. When one of them is lost, it is over.

Jobs live outside of generations. The library's own reconnecting is not used: it tears down healthy consumers together with
one that can't be restored, and a job in its consumer's callback would be cancelled with each lost connection.
"""

import asyncio
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

import aio_pika
import anyio
from aio_pika.abc import AbstractChannel, AbstractConnection
from aiormq.abc import AbstractChannel as RawChannel
from aiormq.abc import DeliveredMessage
from aiormq.exceptions import InvalidFrameError

from runnerd import IngressError, __version__

from .credentials import Place
from .frames import harden

Receive = Callable[[DeliveredMessage], None]
T = TypeVar("T")


class LinkLost(Exception):
    """The connection went away in the middle of a call."""


async def steady(act: Awaitable[T]) -> T:
    """Await a call of the library, which tells a lost connection by CancelledError as well. Raises LinkLost then."""
    try:
        return await act
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise LinkLost("the connection was lost") from None


class Link:
    """Two connections, so that a broker that reads no more from one that publishes still takes acks."""

    def __init__(self, consuming: AbstractConnection, publishing: AbstractConnection) -> None:
        self._consuming = consuming
        self._publishing = publishing
        self._replies: AbstractChannel | None = None
        self._streams: AbstractChannel | None = None
        self._opening = asyncio.Lock()
        self.over = asyncio.Event()
        """Set when something was lost."""
        self.reason = ""
        """What was lost, and why."""

    def end(self, reason: str) -> None:
        """Give up this generation."""
        if not self.over.is_set():
            self.reason = reason
            self.over.set()

    async def consumer_channel(self, prefetch: int) -> RawChannel:
        """A channel to consume with; this generation is over when it is lost, or when the broker cancels a consumer on it."""
        channel = await self._consuming.channel(publisher_confirms=False)
        raw = await channel.get_underlay_channel()
        self._watch(raw.closing, "channel")
        raw.on_consumer_cancel_callbacks.add(lambda frame: self.end(f"the broker cancelled consumer {frame.consumer_tag}"))
        await raw.basic_qos(prefetch_count=prefetch)
        return raw

    async def replies(self) -> AbstractChannel:
        """The channel of all answers: confirmed, and an error where nobody gets one."""
        async with self._opening:
            if self._replies is None or self._replies.is_closed:
                self._replies = await self._publishing.channel(publisher_confirms=True, on_return_raises=True)
            return self._replies

    async def streams(self) -> AbstractChannel:
        """The channel of output of running jobs."""
        async with self._opening:
            if self._streams is None or self._streams.is_closed:
                self._streams = await self._publishing.channel(publisher_confirms=True, on_return_raises=False)
            return self._streams

    @asynccontextmanager
    async def apart(self, *, consuming: bool = False) -> AsyncGenerator[AbstractChannel]:
        """A channel for what may fail: the broker closes the channel with it."""
        connection = self._consuming if consuming else self._publishing
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        try:
            yield channel
        finally:
            if not channel.is_closed:
                await channel.close()

    async def unblocked(self) -> None:
        """Wait while the broker takes nothing from connections that publish: it is short of memory or disk."""
        assert self._publishing.transport is not None
        await self._publishing.transport.ready()

    def _watch(self, closing: "asyncio.Future[Any]", what: str) -> None:
        def closed(future: "asyncio.Future[Any]") -> None:
            cause = None if future.cancelled() else future.exception()
            self.end(f"{what} lost: {said(cause)}")

        closing.add_done_callback(closed)

    def watch_connections(self) -> None:
        """Be over as soon as one of the connections is."""
        for connection, what in ((self._consuming, "consuming connection"), (self._publishing, "publishing connection")):
            assert connection.transport is not None
            self._watch(connection.transport.connection.closing, what)


@asynccontextmanager
async def open_link(places: list[Place], *, connect_s: float) -> AsyncGenerator[Link]:
    """A new generation, at the first place that answers. Raises IngressError, naming each place and the cause."""
    harden()
    async with AsyncExitStack() as stack:
        consuming, place = await _first(stack, places, connect_s)
        publishing = await stack.enter_async_context(_connected(place, "publish", connect_s))
        link = Link(consuming, publishing)
        link.watch_connections()
        try:
            yield link
        finally:
            link.end("closed")


async def _first(stack: AsyncExitStack, places: list[Place], connect_s: float) -> tuple[AbstractConnection, Place]:
    problems = []
    for place in places:
        try:
            return await stack.enter_async_context(_connected(place, "consume", connect_s)), place
        except IngressError as error:
            problems.append(str(error))
    raise IngressError("; ".join(problems))


@asynccontextmanager
async def _connected(place: Place, purpose: str, connect_s: float) -> AsyncGenerator[AbstractConnection]:
    name = f"runnerd/{__version__}/{socket.gethostname()}/{purpose}"
    connection = aio_pika.Connection(place.url, ssl_context=place.tls, client_properties={"connection_name": name})
    try:
        try:
            async with asyncio.timeout(connect_s):
                await connection.connect()
        except TimeoutError:
            raise IngressError(f"RabbitMQ at {place.shown}: no connection within {connect_s:g} s") from None
        except Exception as error:  # noqa: BLE001 - the library, ssl and the resolver raise what they like; all mean: no connection
            raise IngressError(f"RabbitMQ at {place.shown}: no connection: {_refused(error)}") from None
        yield connection
    finally:
        with anyio.move_on_after(connect_s, shield=True):
            await connection.close()


def _refused(error: Exception) -> str:
    """Why the broker did not let us in. Of a virtual host the library only says that it got another frame than it expected."""
    if isinstance(error, InvalidFrameError) and "Connection.Close" in str(error):
        return "NOT_ALLOWED: there is no such virtual host, or the user may not use it"
    return said(error)


def said(error: BaseException | type[BaseException] | None) -> str:
    """What an error of the library says, in one line: some of them say nothing."""
    if error is None or isinstance(error, type):
        return "closed"
    text = str(error).partition("\n")[0].strip()
    return text or type(error).__name__
