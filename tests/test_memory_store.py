"""What only the store in memory promises: its bounds, for entries, rankings and blobs."""

import asyncio

import pytest

from runnerd import StoreError
from runnerd.testing.blobs import chunks, content
from runnerd.testing.keyvalues import until
from stores import store


async def test_a_full_store_says_so_and_goes_on() -> None:
    async with store("memory", most_bytes=1 << 20).open_kv() as kv:
        await kv.put("a", b"1")
        with pytest.raises(StoreError, match="most_bytes"):
            await kv.put("a", bytes(2 << 20))
        with pytest.raises(StoreError, match="most_bytes"):
            await asyncio.gather(*(kv.put(f"c{i}", bytes(50_000), ttl_s=1) for i in range(100)))

        async def gone() -> bool:
            return not any([await kv.get(f"c{i}") for i in range(100)])

        await until(gone, "expired")
        await kv.put("d", bytes(100_000))  # makes room of what expired
        found = await kv.get("a")
        assert found is not None
        assert found[0] == b"1"


async def test_entries_and_members_are_counted() -> None:
    async with store("memory", most_entries=3).open_kv() as kv:
        await kv.put("a", b"1")
        await kv.rank("r", "a", 1)
        await kv.rank("r", "b", 1)
        for ask in (kv.put("b", b"1"), kv.rank("r", "c", 1), kv.rank("s", "a", 1)):
            with pytest.raises(StoreError, match="most_entries"):
                await ask
        await kv.rank("r", "b", 2)
        await kv.unrank("r", "b")
        await kv.put("b", b"1")
        await kv.delete("a")
        await kv.rank("s", "a", 1)
        assert await kv.ranked("s") == [("a", 1.0)]


async def test_expired_entries_are_removed() -> None:
    async with store("memory").open_kv() as kv:
        for key in "abc":
            await kv.put(key, b"1", ttl_s=0.01)

        async def gone() -> bool:
            return await kv.get("c") is None

        await until(gone, "expired")
        assert [await kv.expire(2), await kv.expire(2), await kv.expire(2)] == [2, 1, 0]


async def test_blobs_have_a_bound() -> None:
    async with store("memory", most_bytes=1000).open_blobs() as blobs:
        for _ in range(5):
            await blobs.put("a", chunks(bytes(400)))  # replaces itself
        with pytest.raises(StoreError, match="most_bytes"):
            await blobs.put("b", chunks(bytes(400), bytes(400)))
        with pytest.raises(StoreError, match="most_bytes"):
            await blobs.put("a", chunks(bytes(400), bytes(800)))
        assert await content(blobs, "a") == bytes(400), "what stood there stands"
        await blobs.put("b", chunks(bytes(400)))
        await blobs.delete("a")
        await blobs.put("c", chunks(bytes(400)))
