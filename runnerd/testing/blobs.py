"""What every blob store has to do, as tests. Each takes a fixture `blobs`: an open, empty Blobs."""

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator

from ..errors import StoreError
from ..store import Blobs
from .keyvalues import BAD_KEYS, refused


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    """Parts as they stream by."""
    for part in parts:
        yield part


async def content(blobs: Blobs, key: str, start: int = 0, end: int | None = None) -> bytes:
    """A blob, or a range of it, in one piece."""
    return b"".join([chunk async for chunk in blobs.get(key, start, end)])


async def absent(blobs: Blobs, key: str) -> bool:
    """Whether there is no such blob for any of the methods."""
    try:
        await content(blobs, key)
    except KeyError:
        return await blobs.info(key) is None and key not in [blob.key for blob in await blobs.list()]
    return False


class BlobsContract:
    """What every blob store has to do."""

    large_bytes = 13 << 20
    """Size of a blob that is larger than what the store sends or holds at once."""

    async def test_blobs_come_back_in_chunks(self, blobs: Blobs) -> None:
        """Whatever the sizes they came in, and none is held whole."""
        parts = [os.urandom(100_000) for _ in range(20)]
        assert (await blobs.put("s/one", chunks(*parts))).size == 2_000_000
        assert await content(blobs, "s/one") == b"".join(parts)
        assert max([len(chunk) async for chunk in blobs.get("s/one")]) <= 1 << 20
        for sizes in ((), (0,), (1,), (0, 1, 0, 2)):
            assert (await blobs.put("s/few", chunks(*map(bytes, sizes)))).size == sum(sizes)
            assert await content(blobs, "s/few") == bytes(sum(sizes))

    async def test_a_large_blob(self, blobs: Blobs) -> None:
        """It is the same when it comes back, byte for byte, and so is a range across its middle."""
        sent, parts = hashlib.sha256(), [os.urandom(1 << 20) for _ in range(3)]

        async def many() -> AsyncIterator[bytes]:
            for i in range(self.large_bytes >> 20):
                sent.update(parts[i % 3])
                yield parts[i % 3]

        assert (await blobs.put("large", many())).size == self.large_bytes
        came = hashlib.sha256()
        async for chunk in blobs.get("large"):
            came.update(chunk)
        assert came.digest() == sent.digest()
        middle = await content(blobs, "large", (5 << 20) - 7, (5 << 20) + 9)
        assert middle == parts[1][-7:] + parts[2][:9]

    async def test_knows_a_blob(self, blobs: Blobs) -> None:
        """Its size, type and time are told when it is stored, and the same later."""
        before = time.time()
        put = await blobs.put("s/a", chunks(b"hello"), "text/html; charset=utf-8")
        assert (put.key, put.size, put.content_type) == ("s/a", 5, "text/html; charset=utf-8")
        found = await blobs.info("s/a")
        assert found is not None
        assert (found.key, found.size, found.content_type) == ("s/a", 5, "text/html; charset=utf-8")
        assert abs(found.modified - before) < 300, "seconds since 1970"
        assert abs(put.modified - found.modified) < 300
        (listed,) = await blobs.list()
        assert (listed.key, listed.size) == ("s/a", 5)
        assert abs(listed.modified - found.modified) < 2, "to the second"
        assert listed.content_type in ("", "text/html; charset=utf-8")
        await blobs.put("s/a", chunks(b"other"))
        found = await blobs.info("s/a")
        assert found is not None
        assert found.content_type == "application/octet-stream"

    async def test_odd_content_types_are_refused(self, blobs: Blobs) -> None:
        """What could break a header or a file is refused before anything is stored."""
        for odd in ("", " ", "a\nb", "a\r\nX: y", "é", "x" * 256, "text/plain ", "\0"):
            await refused(blobs.put("a", chunks(b"1"), odd), "content type")
        assert await absent(blobs, "a")

    async def test_ranges(self, blobs: Blobs) -> None:
        """From `start` up to `end`, as far as the blob goes."""
        whole = bytes(range(100))
        await blobs.put("a", chunks(whole))
        for start, end in ((0, None), (0, 1), (10, 20), (99, None), (99, 100), (50, 1000), (100, None), (200, 300), (0, 0), (7, 7)):
            assert await content(blobs, "a", start, end) == whole[start:end], (start, end)
        for start, end in ((-1, None), (-5, -1), (0, -1), (5, 4)):
            await refused(content(blobs, "a", start, end), "range")
        await blobs.put("empty", chunks())
        assert await content(blobs, "empty", 0, 10) == b""

    async def test_one_that_stops_reading_harms_nobody(self, blobs: Blobs) -> None:
        """A reader that leaves in the middle leaves nothing in the way."""
        await blobs.put("a", chunks(*[bytes(1 << 20)] * 3))
        for _ in range(30):
            reading = blobs.get("a")
            await anext(reading)
            await reading.aclose()  # type: ignore[attr-defined]
        assert len(await content(blobs, "a")) == 3 << 20

    async def test_a_blob_may_lie_below_another(self, blobs: Blobs) -> None:
        """A key may begin with another."""
        await blobs.put("a", chunks(b"1"))
        await blobs.put("a/b", chunks(b"2"))
        await blobs.put("a", chunks(b"3"))
        assert [await content(blobs, key) for key in ("a", "a/b")] == [b"3", b"2"]
        await blobs.delete("a")
        assert await content(blobs, "a/b") == b"2"
        await blobs.put("a", chunks(b"4"))
        await blobs.delete("a/b")
        assert await content(blobs, "a") == b"4"

    async def test_no_blob_is_a_key_error(self, blobs: Blobs) -> None:
        """Deleting twice is no error, and what was deleted is not there."""
        assert await absent(blobs, "nothing")
        await blobs.put("a/b", chunks(b"1"))
        await blobs.delete("a/b")
        await blobs.delete("a/b")
        assert await absent(blobs, "a/b")
        assert await absent(blobs, "a")
        try:
            await content(blobs, "a/b", 5, 5)
        except KeyError:
            return
        raise AssertionError("an empty range of no blob is no KeyError")

    async def test_lists_in_the_order_of_keys(self, blobs: Blobs) -> None:
        """By character, `-` before `/` before digits; a page begins behind the last one's end."""
        assert await blobs.list() == []
        keys = ["a", "a-b", "a-b/c", "a/b", "a/b-c", "a/b/c", "a/c", "a0", "a_b", "aB", "b/a", "B", "-", "_", "9/9/9", "9-9", "99"]
        for key in keys:
            await blobs.put(key, chunks(key.encode()))
        keys.sort()
        assert [blob.key for blob in await blobs.list()] == keys
        assert [blob.size for blob in await blobs.list()] == [len(key) for key in keys]
        for most in (1, 2, 5):
            paged: list[str] = []
            after = ""
            while page := [blob.key for blob in await blobs.list(after=after, most=most)]:
                assert len(page) == min(most, len(keys) - len(paged))
                paged += page
                after = page[-1]
            assert paged == keys, most
        for prefix in ("a", "a/", "a/b", "a-", "a/b/", "b", "9", "nothing", "nothing/", "a/b/c", "a/b/c/d"):
            expected = [key for key in keys if key.startswith(prefix)]
            assert [blob.key for blob in await blobs.list(prefix)] == expected, prefix
            for after in ("a", "a/b", "a-b", "a/a", "zzz", "9/9"):
                assert [blob.key for blob in await blobs.list(prefix, after)] == [key for key in expected if key > after], (prefix, after)

    async def test_a_blob_is_whole_or_not_there(self, blobs: Blobs) -> None:
        """While it streams, and where its sender fails or is cancelled, what stood there stands."""

        async def broken() -> AsyncIterator[bytes]:
            yield b"half"
            assert await absent(blobs, "a")
            raise RuntimeError("the sender is gone")

        for _ in range(3):
            said = ""
            try:
                await blobs.put("a", broken())
            except RuntimeError as error:
                said = str(error)
            assert said == "the sender is gone", "the sender's error is passed on"
            assert await absent(blobs, "a")
        await blobs.put("b", chunks(b"stands"))
        for key in ("a", "b"):
            await self._cancelled(blobs, key)
        assert await absent(blobs, "a")
        assert await content(blobs, "b") == b"stands"

    async def _cancelled(self, blobs: Blobs, key: str) -> None:
        streaming = asyncio.Event()

        async def endless() -> AsyncIterator[bytes]:
            for i in range(1000):
                if i * 65_536 > self.large_bytes:
                    streaming.set()
                    await asyncio.Event().wait()
                yield bytes(65_536)

        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(blobs.put(key, endless()))
            await streaming.wait()
            task.cancel()
        assert task.cancelled(), task

    async def test_many_at_once(self, blobs: Blobs) -> None:
        """Blobs stored, read and removed at the same time do not mix; of several under one key one stays, whole."""
        await asyncio.gather(*(blobs.put(f"k/{i}", chunks(str(i).encode() * 1000, b"end")) for i in range(40)))
        found = await asyncio.gather(*(content(blobs, f"k/{i}") for i in range(40)))
        assert found == [str(i).encode() * 1000 + b"end" for i in range(40)]
        await asyncio.gather(*(blobs.put("same", chunks(bytes([i]) * 70_000, bytes([i]) * 70_000)) for i in range(20)))
        same = await content(blobs, "same")
        assert same == same[:1] * 140_000
        await asyncio.gather(*(blobs.delete(f"k/{i}") for i in range(40)))
        assert [blob.key for blob in await blobs.list()] == ["same"]

    async def test_a_blob_goes_from_one_key_to_another(self, blobs: Blobs) -> None:
        """What is read may be what is stored, for many at once."""
        await blobs.put("a", chunks(*[bytes(300_000)] * 4))
        copies = await asyncio.gather(*(blobs.put(f"copy/{i}", blobs.get("a")) for i in range(20)))
        assert {copy.size for copy in copies} == {1_200_000}

    async def test_only_tokens_are_keys(self, blobs: Blobs) -> None:
        """Other keys are refused by every method."""
        for key in BAD_KEYS:
            await refused(blobs.put(key, chunks(b"1")), "tokens")
            await refused(content(blobs, key), "tokens")
            await refused(blobs.info(key), "tokens")
            await refused(blobs.delete(key), "tokens")
        for prefix in ("../", "a/../", "/", "a//b"):
            try:
                assert await blobs.list(prefix) == []
            except StoreError:
                continue
