"""A connection to the bus that lasts: its client is replaced by a new one when the server closed it for good."""

import asyncio
import random
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import nats.errors
from msgspec import Struct
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from runnerd import Counters, IngressError, __version__, new_id

from .client import HardClient
from .log import log
from .tasks import task_group

Receive = Callable[[Msg], Awaitable[None]]

_NOBODY = "503"
_REBUILD_FIRST_S = 0.2
_LEAVE_S = 5.0
"""How long unsubscribing may take. It is one round trip to the server, and what had been sent before it."""
_NO_CLIENT = (nats.errors.ConnectionClosedError, nats.errors.ConnectionDrainingError, nats.errors.OutboundBufferLimitError)


class NoAnswer(Exception):
    """The bus gave no answer to a request."""


class Bounds(Struct, frozen=True, kw_only=True):
    """How long a connection waits, in seconds, and how much it holds, in bytes."""

    connect_s: float
    rebuild_s: float
    patience_s: float
    pending_bytes: int
    waiting_messages: int
    waiting_bytes: int


class Route(Struct, frozen=True, kw_only=True):
    """A subscription that each new client makes again."""

    subject: str
    receive: Receive
    queue: str = ""


class Answers:
    """Answers to requests that wait for them, each known by the subject that it comes on."""

    def __init__(self) -> None:
        self._inbox = f"_INBOX.rd.{new_id()}"
        self._number = 0
        self._waiting: dict[str, asyncio.Future[Msg | None]] = {}

    def route(self) -> Route:
        """Where they come to."""
        return Route(subject=f"{self._inbox}.*", receive=self._receive)

    @contextmanager
    def one(self, timeout_s: float) -> Iterator[tuple[str, "asyncio.Future[Msg | None]"]]:
        """A subject for one answer, and the answer, None where none comes in time; what comes after the block is dropped."""
        self._number += 1
        subject = f"{self._inbox}.{self._number}"
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Msg | None] = loop.create_future()
        self._waiting[subject] = answer
        late = loop.call_later(timeout_s, _none, answer)
        try:
            yield subject, answer
        finally:
            late.cancel()
            del self._waiting[subject]

    async def _receive(self, msg: Msg) -> None:
        answer = self._waiting.get(msg.subject)
        if answer is not None and not answer.done():
            answer.set_result(msg)


def _none(answer: "asyncio.Future[Msg | None]") -> None:
    if not answer.done():
        answer.set_result(None)


class Connection:
    """The current client and what happens when it is lost.

    A short loss is the client's own business: it connects again and subscribes again. Some errors (`-ERR`: payload too
    large, authorization gone) close a client for good; then a new one is made, with growing pauses. Jobs in hand know
    nothing of either: they publish on this object.
    """

    def __init__(self, urls: str, purpose: str, *, shown: str, options: dict[str, Any], bounds: Bounds, counters: Counters) -> None:
        self._urls = [url.strip() for url in urls.split(",")]
        self._shown = shown
        self._purpose = purpose
        self._options = options
        self._bounds = bounds
        self._counters = counters
        self._routes: list[Route] = []
        self._subscriptions: list[Subscription] = []
        self._answers = Answers()
        self._up = asyncio.Event()
        self._closed = asyncio.Event()
        self._last_error = ""
        self.on_up: Callable[[], None] = lambda: None
        """Called when there is a client that is connected: a new one, or the same again."""
        self.client = HardClient(self._malformed)
        """The current client. It may be closed: then another takes its place soon."""

    def __repr__(self) -> str:
        return f"<Connection {self._purpose} to {self._shown}, {'up' if self.client.is_connected else 'down'}>"

    @property
    def max_payload(self) -> int:
        """Largest message that the server takes, in bytes: headers and body together."""
        return self.client.max_payload

    @asynccontextmanager
    async def open(self) -> AsyncGenerator["Connection"]:
        """Connect, and stay connected while the block is open. Raises IngressError, naming the server and the cause."""
        await self._connect()
        try:
            async with task_group() as tasks:
                keeper = tasks.create_task(self._keep())
                yield self
                keeper.cancel()
        finally:
            with anyio.move_on_after(self._bounds.connect_s, shield=True):
                await self._close(self.client)

    async def route(self, route: Route) -> None:
        """Subscribe now and with each new client."""
        self._routes.append(route)
        self._subscriptions.append(await self.subscribe(route))

    async def leave_routes(self) -> None:
        """End all that `route` began: who asks from now on is told at once that nobody is there."""
        subscriptions, self._subscriptions, self._routes = self._subscriptions, [], []
        await self.leave(subscriptions)

    async def leave(self, subscriptions: Sequence[Subscription]) -> bool:
        """Unsubscribe. What the server had sent before it knew still comes to the receivers, before this returns.

        False where the connection was lost in the middle: then the library has subscribed again, and can't leave twice.
        """
        left = True
        try:
            async with asyncio.timeout(_LEAVE_S), asyncio.TaskGroup() as tasks:
                for subscription in subscriptions:
                    tasks.create_task(subscription.drain())  # type: ignore[no-untyped-call]
        except* (nats.errors.Error, OSError, TimeoutError):
            left = False
        return left

    async def subscribe(self, route: Route) -> Subscription:
        """Subscribe with the current client alone; returns the library's subscription."""
        return await self.client.subscribe(
            route.subject,
            queue=route.queue,
            cb=route.receive,
            pending_msgs_limit=self._bounds.waiting_messages,
            pending_bytes_limit=self._bounds.waiting_bytes,
        )

    async def publish(self, subject: str, body: bytes, headers: dict[str, str], *, at_once: bool = False) -> bool:
        """Send a message that matters. Waits while there is no client; False, and counted, where none came in time.

        `at_once`: somebody waits for it, and all else that is to be done here can wait.
        """
        try:
            if at_once:
                await self.client.publish_at_once(subject, body, headers)
            else:
                await self.client.publish(subject, body, headers=headers)
        except _NO_CLIENT:
            return await self._publish_later(subject, body, headers)
        except nats.errors.Error as error:
            self._counters.count("replies_lost", cause=str(error))
            return False
        return True

    async def request(
        self,
        subject: str,
        body: bytes,
        headers: dict[str, str],
        timeout_s: float,
        meanwhile: Callable[[], Awaitable[None]] | None = None,
    ) -> Msg:
        """Send a message and return the one answer. Raises NoAnswer; the message may have arrived nevertheless.

        Where there is no connection that is waited for, as long again. `meanwhile` is done between the one and the other.
        """
        try:
            if not self.client.is_connected:
                async with asyncio.timeout(timeout_s):
                    await self._connected()
            with self._answers.one(timeout_s) as (inbox, answer):  # a timer costs a third of what asyncio.timeout does
                await self.client.publish(subject, body, reply=inbox, headers=headers)
                if meanwhile is not None:
                    await meanwhile()
                msg = await answer
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise NoAnswer(f"{subject}: no answer: {str(error) or f'{timeout_s:g} s are over'}") from None
        if msg is None:
            raise NoAnswer(f"{subject}: no answer: {timeout_s:g} s are over")
        if not msg.data and (msg.headers or {}).get("Status") == _NOBODY:
            raise NoAnswer(f"{subject}: nobody is there")
        return msg

    async def ask(self, subject: str, body: bytes, reply: str) -> bool:
        """Send a message whose answers go to `reply`, a subject of ours; False where there is no connection now."""
        client = self.client
        if not client.is_connected:
            return False
        try:
            await client.publish(subject, body, reply=reply)
        except nats.errors.Error:
            return False
        return True

    async def offer(self, subject: str, body: bytes, headers: dict[str, str], most: int) -> bool:
        """Send what may be lost: False at once, and nothing sent, where there is no client or `most` bytes wait already."""
        client = self.client
        if not client.is_connected or client.pending_data_size + len(body) > most:
            return False
        try:
            await client.publish(subject, body, headers=headers)
        except nats.errors.Error:
            return False
        return True

    async def flush(self) -> None:
        """Wait, at most `connect_s`, until the server has all that was published. Nothing happens where it is gone."""
        try:
            async with asyncio.timeout(self._bounds.connect_s):
                await self.client.flush()
        except (nats.errors.Error, OSError, TimeoutError):
            self._counters.count("flushes_failed", connection=self._purpose)

    async def _publish_later(self, subject: str, body: bytes, headers: dict[str, str]) -> bool:
        try:
            async with asyncio.timeout(self._bounds.patience_s):
                while True:
                    await self._connected()
                    try:
                        await self.client.publish(subject, body, headers=headers)
                    except _NO_CLIENT:
                        continue
                    return True
        except (nats.errors.Error, TimeoutError) as error:
            self._counters.count("replies_lost", cause=str(error) or f"no connection for {self._bounds.patience_s} s")
            return False

    async def _connected(self) -> None:
        if not self.client.is_connected:
            self._up.clear()  # set again by the client or its successor; without this, who tries again would spin
        await self._up.wait()

    async def _keep(self) -> None:
        """Replace a client that was closed for good, again and again."""
        while True:
            await self._closed.wait()
            self._counters.count("clients_rebuilt", connection=self._purpose, cause=self._last_error)
            pause = _REBUILD_FIRST_S
            while True:
                try:
                    await self._connect()
                    break
                except IngressError as error:
                    self._counters.count("rebuilds_failed", connection=self._purpose, cause=str(error))
                await anyio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads many daemons, guards nothing
                pause = min(pause * 2, self._bounds.rebuild_s)

    async def _connect(self) -> None:
        client = HardClient(self._malformed)
        connecting = True
        task = asyncio.current_task()
        assert task is not None
        cancels = task.cancelling()

        async def failed(error: Exception) -> None:
            if connecting and task.cancelling() > cancels:
                raise asyncio.CancelledError  # the library has swallowed it, and would try again for ever
            self._last_error = str(error) or type(error).__name__
            if connecting and "authorization" in self._last_error.lower():
                raise IngressError(f"{self._shown}: the server does not let us in: {self._last_error}")
            if isinstance(error, nats.errors.SlowConsumerError):
                self._counters.count("refused_overrun", subject=error.subject)
            elif not connecting:
                self._counters.count("bus_errors", connection=self._purpose, error=self._last_error)

        async def lost() -> None:
            if not client.is_closed:
                log.info("bus lost", connection=self._purpose)

        async def closed() -> None:
            if client is self.client:
                self._up.clear()
                self._closed.set()

        async def back() -> None:
            log.info("bus is back", connection=self._purpose)
            self._up.set()
            self.on_up()

        try:
            async with asyncio.timeout(self._bounds.connect_s):
                await client.connect(
                    self._urls, error_cb=failed, disconnected_cb=lost, closed_cb=closed, reconnected_cb=back, **self._settings()
                )
                self.client = client
                self._closed.clear()
                await self.subscribe(self._answers.route())
                self._subscriptions = [await self.subscribe(route) for route in self._routes]
            connecting = False
        except TimeoutError:
            cause = self._last_error or "no answer"
            raise IngressError(f"{self._shown}: no connection within {self._bounds.connect_s} s: {cause}") from None
        except IngressError:
            raise
        except Exception as error:  # noqa: BLE001 - the library, ssl and nkeys raise what they like; all mean: no connection
            raise IngressError(f"{self._shown}: no connection: {str(error) or type(error).__name__}") from None
        finally:
            if connecting:
                await self._close(client)
        self._up.set()
        self.on_up()

    def _settings(self) -> dict[str, Any]:
        return {
            "name": f"runnerd/{__version__}/{socket.gethostname()}/{self._purpose}",
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": 0.5 * random.uniform(0.8, 1.2),  # noqa: S311 - spreads many daemons, guards nothing
            "ping_interval": 10,
            "max_outstanding_pings": 2,
            "pending_size": self._bounds.pending_bytes,
            "inbox_prefix": "_INBOX.rd",
            **self._options,
        }

    async def _close(self, client: Client) -> None:
        try:
            await client.close()
        except (nats.errors.Error, OSError, AssertionError) as error:  # the last: of a client that never got to connect
            self._counters.count("bus_errors", connection=self._purpose, error=str(error))

    def _malformed(self) -> None:
        self._counters.count("refused_malformed", connection=self._purpose)
