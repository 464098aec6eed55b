"""Blobs in a bucket of S3, or of a server that speaks as it does, such as MinIO.

The library blocks, so it works in threads of its own; blobs stream through them in parts and are never held whole.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta

from runnerd import Blobs, Store, StoreError, hookimpl


class S3(Store, tag="s3", frozen=True, kw_only=True):
    """Keeps blobs in a bucket. Needs `pip install 'runnerd[s3]'`."""

    endpoint: Annotated[str, Meta(extra={"env": "MINIO_ENDPOINT", "selects": True})] = "localhost:9000"
    """The server, host:port; a URL says by its scheme whether `secure` is on."""
    secure: Annotated[bool, Meta(extra={"env": "MINIO_SECURE"})] = False
    """Encrypt, and check the server's certificate."""
    tls_ca: str = ""
    """File with the certificates that the server's own is checked against. Empty: those of the machine."""
    access_key: Annotated[str, Meta(extra={"env": "MINIO_ACCESS_KEY"})] = ""
    """Name of the key."""
    secret_key: Annotated[str, Meta(extra={"env": "MINIO_SECRET_KEY", "secret": True})] = ""
    """The key."""
    use_iam: Annotated[bool, Meta(extra={"env": "MINIO_USE_IAM"})] = False
    """Find keys as AWS clients do: AWS_* variables, ~/.aws/credentials, the role of the service account, task or instance."""
    region: Annotated[str, Meta(extra={"env": "MINIO_REGION"})] = "us-east-1"
    """Region of the bucket."""
    bucket: Annotated[str, Meta(extra={"env": "MINIO_BUCKET"})] = "kubecoderun-files"
    """The bucket. The default is the source system's."""
    create_bucket: bool = True
    """Make the bucket at the start where there is none."""
    prefix: Annotated[str, Meta(pattern=r"^([A-Za-z0-9_-]+/)*$", max_length=128)] = "runnerd/"
    """What the names of all our objects begin with: empty, or directories with a / behind each."""

    part_bytes: Annotated[int, Meta(ge=5 << 20, le=1 << 30)] = 5 << 20
    """Blobs are sent in parts of so many bytes; up to four are in memory for each upload. A blob has 10 000 at most."""
    uploads: Annotated[int, Meta(ge=1, le=1000)] = 8
    """Blobs that are stored at once; further ones wait."""
    downloads: Annotated[int, Meta(ge=1, le=1000)] = 16
    """Blobs that are read, and other requests that are made, at once; further ones wait."""
    wait_s: Annotated[float, Meta(gt=0)] = 30.0
    """How long an operation waits for its turn."""
    most_waiting: Annotated[int, Meta(ge=1)] = 10_000
    """Operations that wait for their turn at once; a further one is refused."""
    timeout_s: Annotated[float, Meta(gt=0)] = 30.0
    """How long the server may be silent while it owes an answer."""
    connect_timeout_s: Annotated[float, Meta(gt=0)] = 5.0
    """How long connecting may take."""
    retries: Annotated[int, Meta(ge=0, le=10)] = 2
    """How often a request is made again that the server did not answer, or answered with 500, 502, 503 or 504."""

    def __post_init__(self) -> None:
        """Refuse what no server can be reached by. Raises ValueError."""
        parts = urlsplit(self.url())
        try:
            valid = bool(parts.hostname) and parts.path in ("", "/") and not parts.query and parts.port != 0
        except ValueError:
            valid = False
        if not valid or parts.scheme not in ("http", "https") or parts.username is not None:
            raise ValueError("endpoint: is no host:port, and no URL http://host:port or https://host:port")
        if not self.use_iam and bool(self.access_key) != bool(self.secret_key):
            raise ValueError("access_key: set secret_key (MINIO_SECRET_KEY) as well, or neither")

    def url(self) -> str:
        """The server as a URL."""
        return self.endpoint if "://" in self.endpoint else f"{'https' if self.secure else 'http'}://{self.endpoint}"

    def where(self) -> str:
        """Host, port and bucket."""
        parts = urlsplit(self.url())
        port = "" if parts.port else ":443" if parts.scheme == "https" else ":80"
        return f"{parts.netloc}{port}, bucket {self.bucket}"

    @asynccontextmanager
    async def open_blobs(self) -> AsyncGenerator[Blobs, None]:
        """The bucket, which is there. Raises StoreError, naming host, port, bucket and cause."""
        if find_spec("minio") is None:
            raise StoreError("store.blob.kind s3: needs the package minio: pip install 'runnerd[s3]'")
        from .blobs import S3Blobs  # noqa: PLC0415 - the package is optional
        from .bucket import connected  # noqa: PLC0415

        async with connected(self) as bucket:
            yield S3Blobs(bucket, self)


@hookimpl
def register_stores() -> list[type[Store]]:
    """The S3 store."""
    return [S3]
