"""The listener: uvicorn inside our own block, without its signal handlers and logging, every wait bounded."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from functools import partial
from typing import Any

import anyio
import h11
import uvicorn
from anyio.abc import TaskStatus
from litestar.types import ASGIApp
from msgspec import Struct
from uvicorn.protocols.http.h11_impl import H11Protocol

from runnerd import IngressError

HEAD_BYTES = 64 << 10
"""Largest head of a request."""


class Bounds(Struct, frozen=True, kw_only=True):
    """What the listener allows. Times in seconds."""

    connections: int
    keep_alive_s: float
    head_timeout_s: float
    close_timeout_s: float


@contextmanager
def bind(host: str, port: int) -> Generator[socket.socket]:
    """A socket that listens on `host` and `port`. Raises IngressError, naming both and the cause."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise IngressError(f"http: can't listen on {host} port {port}: {error}") from None
    with listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.setblocking(False)
        except OSError as error:
            raise IngressError(f"http: can't listen on {host} port {port}: {error.strerror}: set API_HOST, API_PORT") from None
        yield listener


def url_of(listener: socket.socket) -> str:
    """The listener's address as people write it."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@asynccontextmanager
async def serve(app: ASGIApp, listener: socket.socket, bounds: Bounds, closing: asyncio.Event) -> AsyncGenerator[None]:
    """Answer requests while the block is open; then take no more, finish those in hand, and close.

    Cancelled, it sets `closing` for the requests in hand, and ends those that don't heed it in time.
    """
    server = _Server(app, bounds, closing)
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        await tasks.start(server.listen, listener)
        try:
            yield
        except Exception as error:  # noqa: BLE001 - the block's own, raised again below, outside of an exception group
            failure = error
        finally:
            server.should_exit = True
    if failure is not None:
        raise failure


class _Server(uvicorn.Server):
    def __init__(self, app: ASGIApp, bounds: Bounds, closing: asyncio.Event) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                interface="asgi3",
                # uvicorn calls it like a class; the bounds travel with it
                http=partial(_Connection, bounds),  # type: ignore[arg-type]
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                h11_max_incomplete_event_size=HEAD_BYTES,
                timeout_keep_alive=bounds.keep_alive_s,  # type: ignore[arg-type]  # seconds for call_later
            )
        )
        self._bounds = bounds
        self._closing = closing
        self._listening = asyncio.Event()

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        """Signals are the daemon's."""
        return nullcontext()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._listening.set()

    async def listen(self, listener: socket.socket, *, task_status: TaskStatus[None]) -> None:
        """Serve until `should_exit`; `started` once it listens."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._serve_all, listener)
            await self._listening.wait()
            task_status.started()

    async def _serve_all(self, listener: socket.socket) -> None:
        try:
            await self.serve([listener])
        except asyncio.CancelledError:
            with anyio.CancelScope(shield=True):
                await self._drop()
            raise

    async def _drop(self) -> None:
        """End what is in hand when serving was cancelled: uvicorn's tasks have no parent but this."""
        for server in getattr(self, "servers", ()):
            server.close()
        self._closing.set()
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=self._bounds.close_timeout_s)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        for request in list(self.server_state.tasks):
            request.cancel()


class _Connection(H11Protocol):
    """One connection. A request's head has to arrive in time, and there are only so many connections."""

    def __init__(self, bounds: Bounds, **given: Any) -> None:
        super().__init__(**given)
        self._bounds = bounds
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._bounds.connections:
            transport.abort()
            return
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._forget_head()
        elif self._head_timer is None:
            self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_head()
        super().connection_lost(exc)

    def _watch_head(self) -> None:
        self._head_timer = self.loop.call_later(self._bounds.head_timeout_s, self.timeout_keep_alive_handler)

    def _forget_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
