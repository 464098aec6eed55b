"""What every store promises, kept by each of the bundled ones, on real servers."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runnerd import Blobs, KeyValues
from runnerd.testing import BlobsContract, KeyValuesContract
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
