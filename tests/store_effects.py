"""What each variable of Redis and S3 does, as a server sees it: value, what is looked at, what is seen without and with it."""

import asyncio
import os
import re
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from redis_fixture import RedisServer, behind_tls, free_port
from runnerd import ConfigError, StoreError
from runnerd.config import load_config
from runnerd.config.tree import StoreSettings
from runnerd.plugins import find_plugins

Look = Callable[[Any], Awaitable[object]]
PORT, S3_PORT = free_port(), free_port()


def stores(world: Any, **environ: object) -> StoreSettings:
    """What the variable and `environ` make of the stores."""
    given = {name: str(value) for name, value in environ.items()} | world.environ
    flags = (f"state_dir={world.directory}/state", "ingress.nats.enabled=no")
    return load_config(find_plugins(), flags=flags, environ=given, directory=world.directory).settings.store


@asynccontextmanager
async def server(**options: Any) -> AsyncIterator[RedisServer]:
    with tempfile.TemporaryDirectory() as directory:
        redis = RedisServer(Path(directory), **options)
        redis.port = PORT
        async with redis:
            yield redis


async def written(redis: RedisServer) -> dict[str, int]:
    """Keys on the server, by database."""
    async with redis.client() as client:
        return {name: about["keys"] for name, about in (await client.info("keyspace")).items()}


def keys_on_the_server(password: str = "", **environ: object) -> Look:
    async def look(world: Any) -> object:
        async with server(password=password) as redis:
            try:
                async with stores(world, **environ).kv.open_kv() as kv:
                    await kv.put("a", b"1")
            except StoreError as error:
                return f"{error}".rpartition(": ")[2].partition(" ")[0]
            return await written(redis)

    return look


async def address(world: Any) -> object:
    return stores(world, REDIS_HOST="127.0.0.1").kv.where()


async def connections(world: Any) -> object:
    async with server() as redis, stores(world, REDIS_HOST="127.0.0.1", REDIS_PORT=PORT).kv.open_kv() as kv:
        await asyncio.gather(*(kv.put("a", b"1") for _ in range(100)))
        async with redis.client() as client:
            return len([one for one in await client.client_list() if one["name"] == "runnerd"])


async def patience(world: Any) -> object:
    """A server that says nothing for a second."""
    async with server() as redis, stores(world, REDIS_HOST="127.0.0.1", REDIS_PORT=PORT).kv.open_kv() as kv:
        async with redis.client() as client:
            await client.client_pause(1000)
        try:
            await kv.put("a", b"1")
        except StoreError as error:
            return "Timeout" in str(error) or str(error)
        return False


async def patience_at_connecting(world: Any) -> object:
    """A server that begins to encrypt after a second."""

    async def later(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(1)
        behind_reader, behind = await asyncio.open_connection("localhost", tls_port)
        try:
            async with asyncio.TaskGroup() as tasks:
                for source, target in ((reader, behind), (behind_reader, writer)):
                    tasks.create_task(pump(source, target))
        finally:
            writer.close()

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(1 << 16):
            target.write(data)
        target.close()

    async with server(), behind_tls(PORT, world.directory) as (tls_port, authority):
        listener = await asyncio.start_server(later, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        settings = {"RUNNERD_STORE_KV_TLS": "true", "RUNNERD_STORE_KV_TLS_CA": authority}
        try:
            async with stores(world, REDIS_HOST="localhost", REDIS_PORT=port, **settings).kv.open_kv():
                return False
        except StoreError as error:
            return "Timeout" in str(error) or str(error)
        finally:
            listener.close()
            await listener.wait_closed()


@asynccontextmanager
async def s3_server() -> AsyncIterator[list[bytes]]:
    """Says yes to everything; gives the beginnings of the requests that came."""
    came: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.read(1)
        if head == b"H":
            head += await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        came.append(head)
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", S3_PORT)
    try:
        yield came
    finally:
        listener.close()
        await listener.wait_closed()


def in_request(pattern: bytes, **environ: object) -> Look:
    async def look(world: Any) -> object:
        async with s3_server() as came:
            try:
                async with stores(world, **environ).blob.open_blobs():
                    pass
            except StoreError:
                if came and came[0][:1] == b"H":
                    raise
            except ConfigError:
                return "refused"
            found = re.search(pattern, came[0]) if came else None
            return found[1].decode() if found else None

    return look


HERE = {"MINIO_ENDPOINT": f"127.0.0.1:{S3_PORT}"}
SIGNED = {**HERE, "MINIO_ACCESS_KEY": "me", "MINIO_SECRET_KEY": "secret123"}
CREDENTIAL = rb"Credential=([^/]+)/"


async def from_the_chain(world: Any) -> object:
    os.environ |= {"AWS_ACCESS_KEY_ID": "chained", "AWS_SECRET_ACCESS_KEY": "secret123"}
    try:
        return await in_request(CREDENTIAL, **SIGNED)(world)
    finally:
        del os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]


ON = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": PORT}
ROWS: dict[str, tuple[str, Look, object, object]] = {
    "REDIS_HOST": ("127.0.0.1", keys_on_the_server(REDIS_PORT=PORT), {}, {"db0": 1}),
    "REDIS_PORT": (str(PORT), address, "127.0.0.1:6379", f"127.0.0.1:{PORT}"),
    "REDIS_URL": (f"redis://127.0.0.1:{PORT}/4", keys_on_the_server(), {}, {"db4": 1}),
    "REDIS_DB": ("3", keys_on_the_server(**ON), {"db0": 1}, {"db3": 1}),
    "REDIS_PASSWORD": ("p@ss/w:rd#%", keys_on_the_server("p@ss/w:rd#%", **ON), "Authentication", {"db0": 1}),
    "REDIS_MAX_CONNECTIONS": ("3", connections, 20, 3),
    "REDIS_SOCKET_TIMEOUT": ("0.3", patience, False, True),
    "REDIS_SOCKET_CONNECT_TIMEOUT": ("0.3", patience_at_connecting, False, True),
    "MINIO_ENDPOINT": (f"127.0.0.1:{S3_PORT}", in_request(rb"^(HEAD) "), None, "HEAD"),
    "MINIO_BUCKET": ("mine", in_request(rb"^HEAD /([a-z-]+)", **HERE), "kubecoderun-files", "mine"),
    "MINIO_ACCESS_KEY": ("me", in_request(CREDENTIAL, **HERE, MINIO_SECRET_KEY="secret123"), "refused", "me"),
    "MINIO_SECRET_KEY": ("secret123", in_request(CREDENTIAL, **HERE, MINIO_ACCESS_KEY="me"), "refused", "me"),
    "MINIO_REGION": ("eu-west-3", in_request(rb"Credential=me/[0-9]+/([^/]+)/", **SIGNED), "us-east-1", "eu-west-3"),
    "MINIO_SECURE": ("true", in_request(rb"^(.)", **HERE, RUNNERD_STORE_BLOB_RETRIES="0"), "H", "\x16"),
    "MINIO_USE_IAM": ("true", from_the_chain, "me", "chained"),
}
