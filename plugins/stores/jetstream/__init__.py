"""Keys, values and blobs in JetStream: for installations that have NATS and nothing else.

Entries are those of a NATS key-value bucket, so `nats kv` reads them: `jobs/acme/1` is the key `jobs.acme.1`. Blobs are not in the
format of NATS object stores: those can't be read from the middle, and only one chunk after the other. Needs a server of 2.11 or later.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated

from msgspec import Meta

from runnerd import Blobs, KeyValues, Store, hookimpl, nats_shown

from .blobs import JetStreamBlobs
from .connection import connected
from .keyvalues import JetStreamKeyValues
from .stream import blobs_stream, kv_stream, prepare


class JetStream(Store, tag="jetstream", frozen=True, kw_only=True):
    """Keeps keys and values, or blobs, in JetStream."""

    url: Annotated[str, Meta(min_length=1)] = "nats://127.0.0.1:4222"
    """The server, such as nats://host:4222 or tls://host:4222; several with commas."""
    user: str = ""
    """User name, with `password`."""
    password: Annotated[str, Meta(extra={"secret": True})] = ""
    """Password of `user`."""
    token: Annotated[str, Meta(extra={"secret": True})] = ""
    """Token, in place of `user`."""
    nkey_seed_file: str = ""
    """File with the seed of an nkey. Needs `pip install 'runnerd[nkeys]'`."""
    creds_file: str = ""
    """Credentials file, JWT and seed. Needs `pip install 'runnerd[nkeys]'`."""
    tls_ca: str = ""
    """File with the certificates that the server's own is checked against. Empty: those of the machine."""
    tls_cert: str = ""
    """File with the certificate that we show the server, for servers that ask for one."""
    tls_key: str = ""
    """File with its key. Empty: in `tls_cert` as well."""

    bucket: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = "runnerd"
    """Name of the key-value bucket, and part of the name of the stream of blobs."""
    create: bool = True
    """Create the streams where there are none. False: they must be there, `KV_<bucket>` and `BLOBS_<bucket>`."""
    replicas: Annotated[int, Meta(ge=1, le=5)] = 1
    """On how many servers of a cluster each message is kept, where we create the stream."""
    bucket_bytes: Annotated[int, Meta(ge=1 << 20)] = 1 << 30
    """Bytes of all keys and values at most, where we create the stream; what would be more is refused."""
    stream_bytes: Annotated[int, Meta(ge=1 << 20)] = 10 << 30
    """Bytes of all blobs at most, where we create the stream; what would be more is refused."""
    value_bytes: Annotated[int, Meta(ge=1024, le=64 << 20)] = 1 << 20
    """The largest value of a key that is taken. The server's own `max_payload` holds as well."""
    chunk_bytes: Annotated[int, Meta(ge=1024, le=8 << 20)] = 256 << 10
    """Size of the messages that a blob is cut into."""
    window: Annotated[int, Meta(ge=1, le=256)] = 8
    """Messages of one blob that are on their way at once."""
    connect_s: Annotated[float, Meta(gt=0)] = 5.0
    """How long connecting may take."""
    timeout_s: Annotated[float, Meta(gt=0)] = 5.0
    """How long the server may take for an answer."""
    most_waiting: Annotated[int, Meta(ge=1)] = 1000
    """Requests that wait for an answer at once; further ones wait for their turn."""

    def where(self) -> str:
        """The server's address."""
        return nats_shown(self.url)

    @asynccontextmanager
    async def open_kv(self) -> AsyncGenerator[KeyValues, None]:
        """The bucket, created if need be. Raises StoreError, naming the server and the cause."""
        async with connected(self) as connection:
            await prepare(connection, kv_stream(self), create=self.create)
            yield JetStreamKeyValues(connection, self.bucket, self.value_bytes)

    @asynccontextmanager
    async def open_blobs(self) -> AsyncGenerator[Blobs, None]:
        """The blobs' stream, created if need be. Raises StoreError, naming the server and the cause."""
        async with connected(self) as connection:
            await prepare(connection, blobs_stream(self), create=self.create)
            blobs = JetStreamBlobs(connection, self.bucket, chunk_bytes=self.chunk_bytes, window=self.window)
            await blobs.sweep()
            yield blobs


@hookimpl
def register_stores() -> list[type[Store]]:
    """The JetStream store."""
    return [JetStream]
