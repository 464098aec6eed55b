"""Connections to the server, not more than there may be; and its errors, made ours with host, port and cause."""

import hashlib
from collections.abc import AsyncGenerator, Awaitable, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from redis.asyncio import Redis as Client
from redis.asyncio import RedisCluster, Sentinel
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, ReadOnlyError, RedisClusterException, RedisError

from runnerd import StoreError, Turns

from .place import Place

if TYPE_CHECKING:
    from . import Redis

T = TypeVar("T")
log = structlog.get_logger("runnerd.redis")
_FAILURES = (RedisError, RedisClusterException, OSError, ValueError)
"""RedisClusterException, that no node can be reached, is no RedisError."""


class Script:
    """A program for the server, on one key."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        """By which the server knows it, once it has seen it."""


class Connection:
    """The server, for as long as it is connected. What goes wrong is a StoreError."""

    def __init__(self, client: Any, place: Place, turns: Turns, secrets: Iterable[str]) -> None:
        """`secrets`: what must not be in an error."""
        self._client = client
        self._place = place
        self._secrets = [secret for secret in secrets if secret]
        self._turns = turns

    async def ask(self, command: str, *arguments: object, **options: object) -> Any:
        """One command. Raises StoreError."""
        async with self._turns.turn():
            return await self._translated(getattr(self._client, command)(*arguments, **options))

    async def run(self, script: Script, key: str, *arguments: bytes | int) -> Any:
        """A script on one key; it is sent whole where the server does not know it. Raises StoreError."""
        async with self._turns.turn():
            return await self._translated(self._run(script, key, arguments))

    async def _run(self, script: Script, key: str, arguments: tuple[bytes | int, ...]) -> Any:
        try:
            return await self._client.evalsha(script.digest, 1, key, *arguments)
        except NoScriptError:  # never seen, or forgotten: by a restart, a flush, or since another one serves the key now
            return await self._client.eval(script.source, 1, key, *arguments)

    async def _translated(self, asked: Awaitable[T]) -> T:
        try:
            return await asked
        except ReadOnlyError as error:
            # A replica now: its name may lead to its successor, so none of the connections is used again.
            if not self._place.cluster:
                await self._client.connection_pool.disconnect(inuse_connections=False)
            raise self._failure(error) from None
        except _FAILURES as error:
            raise self._failure(error) from None
        except AttributeError:
            # redis-py's cluster client, when a node is lost: it closes connections under those that have begun to use them.
            if not self._place.cluster:
                raise
            raise self._failure(ConnectionError("the node was lost while it was asked")) from None

    def _failure(self, error: Exception) -> StoreError:
        cause = str(error) or type(error).__name__
        for secret in self._secrets:
            cause = cause.replace(secret, "***")  # a server may repeat what it did not understand
        return StoreError(f"Redis {self._place}: {' '.join(cause.split())}")


@asynccontextmanager
async def connected(redis: "Redis", place: Place) -> AsyncGenerator[Connection, None]:
    """Connect, and ask once. Raises StoreError."""
    turns = Turns(
        f"connections to Redis {place} (max_connections {redis.max_connections})",
        redis.max_connections,
        wait_s=redis.wait_s,
        most_waiting=redis.most_waiting,
    )
    try:
        client, others = _client(redis, place)
    except _FAILURES as error:
        raise StoreError(f"Redis {place}: {error}") from None
    try:
        connection = Connection(client, place, turns, (place.password, redis.sentinel_password))
        await connection.ask("ping")
        await _warn_of_eviction(connection, place)
        yield connection
    finally:
        for one in (client, *others):
            await one.aclose()


def _client(redis: "Redis", place: Place) -> tuple[Any, list[Any]]:
    """The client, and further ones that are to be closed after it."""
    timeouts = {"socket_timeout": redis.timeout_s, "socket_connect_timeout": redis.connect_timeout_s}
    common = {
        **timeouts,
        "username": place.username or None,
        "password": place.password or None,
        "client_name": "runnerd",
        "protocol": 2,
        **_tls(redis, place),
    }
    # Never asked twice behind our back: whoever waits has a deadline, and a delete would answer that nothing was there.
    once = {"retry": Retry(NoBackoff(), 0)}
    if place.cluster:
        return RedisCluster(host=place.host, port=place.port, max_connections=redis.max_connections, **common), []
    common |= {"db": place.db, "max_connections": redis.max_connections, **once}
    if place.sentinels:
        asking = {**timeouts, "password": redis.sentinel_password or None, **once, **_tls(redis, place)}
        sentinel = Sentinel(place.sentinels, sentinel_kwargs=asking, **common)  # type: ignore[no-untyped-call]
        return sentinel.master_for(place.service), sentinel.sentinels
    if place.socket:
        return Client(unix_socket_path=place.socket, **common), []
    return Client(host=place.host, port=place.port, **common), []


def _tls(redis: "Redis", place: Place) -> dict[str, Any]:
    if not place.tls:
        return {}
    return {
        "ssl": True,
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,
        "ssl_ca_certs": redis.tls_ca or None,
        "ssl_certfile": redis.tls_cert or None,
        "ssl_keyfile": redis.tls_key or redis.tls_cert or None,
    }


async def _warn_of_eviction(connection: Connection, place: Place) -> None:
    """A server that throws entries away when its memory is full loses records of jobs, and so runs jobs twice."""
    if place.cluster:
        return  # its nodes may differ, and each would have to be asked
    policy = (await connection.ask("info", "memory")).get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        log.warning("Redis may throw entries away: set its maxmemory-policy to noeviction", server=str(place), maxmemory_policy=policy)
