"""What every store promises, kept by each of the bundled ones, on real servers."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from redis_fixture import fresh_prefix, redis_settings
from runnerd import Blobs, KeyValues
from runnerd.testing import BlobsContract, KeyValuesContract
from s3_fixture import fresh_directory, left_over, s3_settings
from stores import store


class TestMemoryKeyValues(KeyValuesContract):
    @pytest.fixture
    async def kv(self) -> AsyncIterator[KeyValues]:
        async with store("memory", value_bytes=1 << 20).open_kv() as kv:
            yield kv


class TestMemoryBlobs(BlobsContract):
    @pytest.fixture
    async def blobs(self) -> AsyncIterator[Blobs]:
        async with store("memory").open_blobs() as blobs:
            yield blobs


class TestDiskKeyValues(KeyValuesContract):
    @pytest.fixture
    async def kv(self, tmp_path: Path) -> AsyncIterator[KeyValues]:
        async with store("disk", path=str(tmp_path), value_bytes=1 << 20).open_kv() as kv:
            yield kv


class TestDiskBlobs(BlobsContract):
    @pytest.fixture
    async def blobs(self, tmp_path: Path) -> AsyncIterator[Blobs]:
        async with store("disk", path=str(tmp_path)).open_blobs() as blobs:
            yield blobs
        left = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix not in (".blob", ".lock")]
        assert not left, "nothing half written is left"


@pytest.fixture(scope="session")
async def redis(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, Any]]:
    async with redis_settings(tmp_path_factory.mktemp("redis")) as settings:
        yield settings


class TestRedisKeyValues(KeyValuesContract):
    @pytest.fixture
    async def kv(self, redis: dict[str, Any]) -> AsyncIterator[KeyValues]:
        async with store("redis", **redis, prefix=fresh_prefix(), value_bytes=1 << 20).open_kv() as kv:
            yield kv


@pytest.fixture(scope="session")
async def s3(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, Any]]:
    async with s3_settings(tmp_path_factory.mktemp("s3")) as settings:
        yield settings


class TestS3Blobs(BlobsContract):
    @pytest.fixture
    async def blobs(self, s3: dict[str, Any]) -> AsyncIterator[Blobs]:
        settings = s3 | {"prefix": fresh_directory()}
        async with store("s3", **settings).open_blobs() as blobs:
            yield blobs
            known = {settings["prefix"] + blob.key.replace("/", "./") for blob in await blobs.list()}
        objects, uploads = left_over(settings)
        assert set(objects) == known, "every object is a blob"
        assert not uploads, "no upload is left half done"
