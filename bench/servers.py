"""The stores' servers under measurement: those of the tests, each on a port and in a directory of its own."""

import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent / "tests"))  # pytest adds it as well

from redis_fixture import RedisServer
from s3_fixture import S3Server


@asynccontextmanager
async def redis() -> AsyncIterator[tuple[str, ...]]:
    """A Redis server; yields the settings of a daemon that keeps its keys there."""
    with tempfile.TemporaryDirectory(prefix="runnerd-bench-", ignore_cleanup_errors=True) as directory:
        async with RedisServer(Path(directory)) as server:
            yield _table("store.kv", {"kind": "redis", **server.settings})


@asynccontextmanager
async def s3() -> AsyncIterator[tuple[dict[str, Any], tuple[str, ...]]]:
    """An S3 server; yields what its client needs, and the settings of a daemon that keeps its blobs there."""
    with tempfile.TemporaryDirectory(prefix="runnerd-bench-", ignore_cleanup_errors=True) as directory:
        async with S3Server(Path(directory)) as server:
            yield server.settings, _table("store.blob", {"kind": "s3", **server.settings})


def _table(name: str, settings: dict[str, Any]) -> tuple[str, ...]:
    return tuple(f"{name}.{key}={value}" for key, value in settings.items())
