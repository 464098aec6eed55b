"""Keys and values in Redis, or in a server that speaks as it does: one, one that sentinels watch over, or a cluster.

Every operation is one command or one script on one key, so it is atomic on a cluster too.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Annotated

from msgspec import Meta

from runnerd import KeyValues, Store, StoreError, hookimpl

from .place import place_of

Address = Annotated[str, Meta(pattern=r"^[^\s:]+:[0-9]{1,5}$|^\[[0-9a-fA-F:.]+\]:[0-9]{1,5}$")]


class Redis(Store, tag="redis", frozen=True, kw_only=True):
    """Keeps keys and values in Redis. Needs `pip install 'runnerd[redis]'`."""

    url: Annotated[str, Meta(extra={"env": "REDIS_URL", "secret": True, "selects": True})] = ""
    """redis://user:password@host:6379/0, rediss:// with TLS, or unix:///path?db=0.

    It stands for `host` and `port`, and what else it says beats the single settings.
    """
    host: Annotated[str, Meta(extra={"env": "REDIS_HOST", "selects": True})] = "localhost"
    """The server's name or address."""
    port: Annotated[int, Meta(ge=1, le=65535, extra={"env": "REDIS_PORT"})] = 6379
    """The server's port."""
    db: Annotated[int, Meta(ge=0, extra={"env": "REDIS_DB"})] = 0
    """Number of the database. A cluster has only 0."""
    username: str = ""
    """User name, for servers with more than the default user."""
    password: Annotated[str, Meta(extra={"env": "REDIS_PASSWORD", "secret": True})] = ""
    """Password, as it is: nothing in it needs to be escaped."""

    tls: bool = False
    """Encrypt, and check the server's certificate."""
    tls_ca: str = ""
    """File with the certificates that the server's own is checked against. Empty: those of the machine."""
    tls_cert: str = ""
    """File with the certificate that we show the server, for servers that ask for one."""
    tls_key: str = ""
    """File with its key. Empty: in `tls_cert` as well."""

    sentinels: tuple[Address, ...] = ()
    """Sentinels, host:port each: they name the server, in place of `host` and `port`."""
    sentinel_service: str = "mymaster"
    """Under which name the sentinels know it."""
    sentinel_password: str = ""
    """Password of the sentinels themselves."""
    cluster: bool = False
    """Whether `host` and `port` are of a cluster's node, which names the others."""

    prefix: Annotated[str, Meta(pattern=r"^[^\s{}]*$", max_length=128)] = "runnerd:"
    """What all our keys begin with."""
    value_bytes: Annotated[int, Meta(ge=1, le=500 << 20)] = 64 << 20
    """The largest value of a key that is taken. Redis itself takes 512 MiB."""
    max_connections: Annotated[int, Meta(ge=1, extra={"env": "REDIS_MAX_CONNECTIONS"})] = 20
    """Connections at most. Operations wait for a free one."""
    wait_s: Annotated[float, Meta(gt=0)] = 5.0
    """How long an operation waits for a free connection."""
    most_waiting: Annotated[int, Meta(ge=1)] = 10_000
    """Operations that wait for a connection at once; a further one is refused."""
    timeout_s: Annotated[float, Meta(gt=0, extra={"env": "REDIS_SOCKET_TIMEOUT"})] = 5.0
    """How long the server may be silent while it owes an answer."""
    connect_timeout_s: Annotated[float, Meta(gt=0, extra={"env": "REDIS_SOCKET_CONNECT_TIMEOUT"})] = 5.0
    """How long connecting may take."""

    def __post_init__(self) -> None:
        """Refuse what contradicts itself. Raises ValueError."""
        place_of(self)

    def where(self) -> str:
        """The server's address, or the sentinels'."""
        return str(place_of(self))

    @asynccontextmanager
    async def open_kv(self) -> AsyncGenerator[KeyValues, None]:
        """The server, which has answered once. Raises StoreError, naming host, port and cause."""
        if find_spec("redis") is None:
            raise StoreError("store.kv.kind redis: needs the package redis: pip install 'runnerd[redis]'")
        from .connection import connected  # noqa: PLC0415 - the package is optional
        from .keyvalues import RedisKeyValues  # noqa: PLC0415

        async with connected(self, place_of(self)) as connection:
            yield RedisKeyValues(connection, prefix=self.prefix, value_bytes=self.value_bytes)


@hookimpl
def register_stores() -> list[type[Store]]:
    """The Redis store."""
    return [Redis]
