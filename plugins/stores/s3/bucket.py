"""The bucket: the blocking library in threads of its own, and its errors made ours with host, port, bucket and cause."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import urllib3
from minio import Minio
from minio.credentials.providers import AWSConfigProvider, ChainedProvider, EnvAWSProvider, IamAwsProvider, Provider, StaticProvider
from minio.error import S3Error
from urllib3.exceptions import MaxRetryError, NewConnectionError

from runnerd import StoreError

if TYPE_CHECKING:
    from . import S3

T = TypeVar("T")

AT_ONCE = 2
"""Requests of one upload that are on their way at once."""


class RangeError(Exception):
    """A range begins behind the object's end."""


class Bucket:
    """One bucket, and the threads that speak with its server."""

    def __init__(self, client: Minio, s3: "S3", threads: ThreadPoolExecutor) -> None:
        self._client = client
        self._s3 = s3
        self._threads = threads

    def begin(self, act: Callable[[Minio, str], T]) -> "asyncio.Future[T]":
        """Begin to do it, with client and bucket, in a thread."""
        return asyncio.get_running_loop().run_in_executor(self._threads, act, self._client, self._s3.bucket)

    async def ask(self, act: Callable[[Minio, str], T]) -> T:
        """Do it in a thread; it goes on where the caller is cancelled. Raises as `outcome` does."""
        return await self.outcome(self.begin(act))

    async def outcome(self, begun: "asyncio.Future[T]") -> T:
        """What came of it. Raises StoreError, KeyError where there is no such object, and RangeError."""
        try:
            return await asyncio.shield(begun)
        except Exception as error:  # noqa: BLE001 - the library raises its own errors, urllib3's, OSError and ValueError
            raise self._translated(error) from None

    async def ended(self, begun: "asyncio.Future[T]") -> None:
        """Wait for its end, whatever comes of it, though cancelled meanwhile: it still writes."""
        while not begun.done():
            try:
                await asyncio.wait([begun])
            except asyncio.CancelledError:
                continue
        if not begun.cancelled():
            begun.exception()

    def _translated(self, error: Exception) -> Exception:
        match error:
            case S3Error(code="NoSuchKey" | "ResourceNotFound"):
                return KeyError(error.object_name)
            case S3Error(code="InvalidRange"):
                return RangeError()
        return StoreError(f"S3 {self._s3.where()}: {_cause(error, self._s3.secret_key)}")


def _cause(error: Exception, secret: str) -> str:
    """What went wrong, in one line and without the secret."""
    match error:
        case S3Error():
            text = f"{error.code}: {error.message}"
        case MaxRetryError(reason=NewConnectionError() as reason):
            text = str(reason).rpartition(": ")[2]
        case MaxRetryError(reason=Exception() as reason):
            text = str(reason)
        case _:
            text = str(error) or type(error).__name__
    text = " ".join(text.split())[:500]
    return text.replace(secret, "***") if secret else text


@asynccontextmanager
async def connected(s3: "S3") -> AsyncGenerator[Bucket, None]:
    """The bucket, made if there was none. Raises StoreError."""
    threads = ThreadPoolExecutor(AT_ONCE * s3.uploads + s3.downloads, "runnerd-s3")
    http = _http(s3)
    try:
        bucket = Bucket(_client(s3, http), s3, threads)
        await bucket.ask(lambda client, _: _prepare(client, s3))
        yield bucket
    finally:
        await asyncio.shield(asyncio.to_thread(threads.shutdown))
        http.clear()


def _http(s3: "S3") -> urllib3.PoolManager:
    return urllib3.PoolManager(
        maxsize=AT_ONCE * s3.uploads + s3.downloads,
        timeout=urllib3.Timeout(connect=s3.connect_timeout_s, read=s3.timeout_s),
        retries=urllib3.Retry(total=s3.retries, backoff_factor=0.2, status_forcelist=(500, 502, 503, 504), raise_on_status=False),
        cert_reqs="CERT_REQUIRED",
        ca_certs=s3.tls_ca or None,
    )


def _client(s3: "S3", http: urllib3.PoolManager) -> Minio:
    scheme, _, endpoint = s3.url().rstrip("/").partition("://")
    try:
        return Minio(endpoint, secure=scheme == "https", region=s3.region or None, http_client=http, credentials=_credentials(s3, http))
    except ValueError as error:
        raise StoreError(f"S3 {s3.where()}: {error}") from None


def _credentials(s3: "S3", http: urllib3.PoolManager) -> Provider | None:
    if s3.use_iam:
        return ChainedProvider([EnvAWSProvider(), AWSConfigProvider(), IamAwsProvider(http_client=http, region=s3.region or None)])
    # without keys requests are not signed, and the server decides what that may do
    return StaticProvider(s3.access_key, s3.secret_key) if s3.access_key else None


def _prepare(client: Minio, s3: "S3") -> None:
    """See to it that the bucket is there."""
    if client.bucket_exists(s3.bucket):
        return
    if not s3.create_bucket:
        raise ValueError("there is no such bucket: make it, or set create_bucket = true")
    try:
        client.make_bucket(s3.bucket, s3.region or None)
    except S3Error as error:
        if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):  # another daemon was faster
            raise
