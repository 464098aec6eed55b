"""What only a store on disk promises: it survives kills and full disks, is bounded, and belongs to one daemon at a time."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from runnerd import Store, StoreError
from runnerd.testing.blobs import absent, chunks, content
from runnerd.testing.keyvalues import until
from stores import store


def disk(path: str | Path, **settings: Any) -> Store:
    return store("disk", path=str(path), **settings)


async def test_disk_keeps_what_was_written(tmp_path: Path) -> None:
    opened = disk(tmp_path / "new" / "place", fsync=True)
    async with opened.open_kv() as kv, opened.open_blobs() as blobs:
        revision = await kv.put("a", b"1")
        await blobs.put("b", chunks(b"2"))
    async with opened.open_kv() as kv, opened.open_blobs() as blobs:
        assert await kv.get("a") == (b"1", revision)
        assert await content(blobs, "b") == b"2"
    assert (tmp_path / "new" / "place").stat().st_mode & 0o777 == 0o700


async def test_disk_is_held_by_one_daemon(tmp_path: Path) -> None:
    opened = disk(tmp_path)
    async with opened.open_kv():
        with pytest.raises(StoreError, match=f"{tmp_path}: process {os.getpid()} uses it already"):
            async with opened.open_kv():
                pass
    async with opened.open_kv():
        pass


async def test_disk_says_what_is_wrong_with_its_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        async with disk(tmp_path / "file").open_kv():
            pass
    (tmp_path / "kv.sqlite3").write_bytes(b"this is no database" * 1000)
    with pytest.raises(StoreError, match=r"kv\.sqlite3: can't be used as a database"):
        async with disk(tmp_path).open_kv():
            pass
    with pytest.raises(StoreError, match="path is missing"):
        async with disk("").open_kv():
            pass


HEADER = b"runnerd-blob 1 application/octet-stream\n"
WRITER = """
    import asyncio, sys
    from importlib.metadata import entry_points
    (point,) = [point for point in entry_points(group="runnerd") if point.name == "disk"]
    (Disk,) = point.load().register_stores()

    async def chunks():
        for _ in range(64):
            yield bytes(4096)

    async def write(kv, blobs, lane):
        for i in range(1_000_000):
            await kv.put(f"{lane}/value", str(i).encode() * 100)
            await kv.put(f"{lane}/count", str(i).encode())
            await blobs.put(f"{lane}/{i % 7}", chunks())
            print(lane, i, flush=True)

    async def main():
        disk = Disk(path=sys.argv[1])
        async with disk.open_kv() as kv, disk.open_blobs() as blobs:
            await asyncio.gather(*(write(kv, blobs, lane) for lane in "abcd"))

    asyncio.run(main())
"""


async def test_disk_survives_a_daemon_that_is_killed(tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    writer.stdout.readline()
    with pytest.raises(StoreError, match=f"process {writer.pid} uses it already"):
        async with disk(tmp_path).open_kv():
            pass
    for _ in range(200):
        writer.stdout.readline()
    writer.send_signal(signal.SIGKILL)
    said = dict(line.split() for line in writer.stdout.read().splitlines() if len(line.split()) == 2)
    writer.wait()
    writer.stdout.close()
    opened = disk(tmp_path)
    async with opened.open_kv() as kv, opened.open_blobs() as blobs:
        for lane in "abcd":
            value, count = await kv.get(f"{lane}/value"), await kv.get(f"{lane}/count")
            assert value is not None
            assert count is not None
            told = int(said.get(lane, "0"))
            assert int(count[0]) >= told, "what was answered is there"
            assert value[0] in (str(int(count[0]) + ahead).encode() * 100 for ahead in (0, 1)), "whole, and in order"
            assert await content(blobs, f"{lane}/{told % 7}") == bytes(64 * 4096)
        for path in (tmp_path / "blobs").rglob("*"):
            assert path.is_dir() or path.suffix == ".blob", "nothing half written is left"
            assert path.is_dir() or path.stat().st_size == len(HEADER) + 64 * 4096


async def test_a_full_database_says_so_and_goes_on(tmp_path: Path) -> None:
    async with disk(tmp_path, kv_bytes=1 << 20).open_kv() as kv:
        await kv.put("a", b"1")
        await kv.rank("r", "a", 1)
        with pytest.raises(StoreError, match="kv_bytes"):
            await kv.put("b", bytes(2 << 20))
        with pytest.raises(StoreError, match="kv_bytes"):
            await asyncio.gather(*(kv.put(f"c{i}", bytes(50_000), ttl_s=1) for i in range(100)))

        async def gone() -> bool:
            return not any([await kv.get(f"c{i}") for i in range(100)])

        await until(gone, "expired")
        await kv.put("d", bytes(100_000))  # makes room of what expired
        found = await kv.get("a")
        assert found is not None
        assert found[0] == b"1"
        assert await kv.ranked("r") == [("a", 1.0)]


async def test_one_that_fails_takes_none_along(tmp_path: Path) -> None:
    async with disk(tmp_path, kv_bytes=1 << 20).open_kv() as kv:
        asked = [kv.put(f"k{i}", bytes(2 << 20) if i == 10 else b"small") for i in range(20)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert [i for i, answer in enumerate(answers) if isinstance(answer, StoreError)] == [10]


async def test_expired_entries_are_removed(tmp_path: Path) -> None:
    async with disk(tmp_path).open_kv() as kv:
        for key in "abc":
            await kv.put(key, b"1", ttl_s=0.01)

        async def gone() -> bool:
            return await kv.get("c") is None

        await until(gone, "expired")
        assert [await kv.expire(2), await kv.expire(2), await kv.expire(2)] == [2, 1, 0]


async def test_blobs_have_a_bound(tmp_path: Path) -> None:
    async with disk(tmp_path, blob_bytes=1000).open_blobs() as blobs:
        for _ in range(5):
            await blobs.put("a", chunks(bytes(400)))  # replaces itself
        with pytest.raises(StoreError, match="blob_bytes"):
            await blobs.put("b", chunks(bytes(400), bytes(400)))
        await blobs.put("b", chunks(bytes(400)))
        await blobs.delete("a")
        await blobs.put("c", chunks(bytes(400)))


async def test_no_key_leaves_the_directory(tmp_path: Path) -> None:
    (tmp_path / "outside.blob").write_bytes(HEADER)
    async with disk(tmp_path / "store").open_blobs() as blobs:
        await blobs.put("a", chunks(b"1"))
        for prefix in ("../", "a/../../", "./", "//"):
            with pytest.raises(StoreError, match="tokens"):
                await blobs.list(prefix)
        with pytest.raises(StoreError, match="tokens"):
            await blobs.put("../outside", chunks(b"2"))
        assert [blob.key for blob in await blobs.list("..")] == []


async def test_a_foreign_file_is_no_blob(tmp_path: Path) -> None:
    async with disk(tmp_path).open_blobs() as blobs:
        (tmp_path / "blobs" / "a.blob").write_bytes(b"something else\n")
        for ask in (blobs.info("a"), content(blobs, "a"), blobs.list()):
            with pytest.raises(StoreError, match=r"a\.blob: is no blob"):
                await ask
        await blobs.put("a", chunks(b"1"))
        assert await content(blobs, "a") == b"1"


async def test_directories_that_are_empty_go(tmp_path: Path) -> None:
    async with disk(tmp_path).open_blobs() as blobs:
        await blobs.put("a/b/c/d", chunks(b"1"))
        await blobs.put("a/e", chunks(b"1"))
        await blobs.delete("a/b/c/d")
        assert sorted(path.name for path in (tmp_path / "blobs").rglob("*")) == [".parts", "a", "e.blob"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


async def test_a_full_disk_says_so_and_loses_nothing(small_disk: Path) -> None:
    async def large() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield bytes(100_000)

    opened = disk(small_disk)
    async with opened.open_kv() as kv, opened.open_blobs() as blobs:
        await kv.put("a", b"1")
        await blobs.put("a", chunks(b"1"))
        await blobs.put("room", chunks(bytes(1_000_000)))
        for _ in range(3):
            with pytest.raises(StoreError, match=rf"{small_disk}.*No space left"):
                await blobs.put("b", large())
            assert await absent(blobs, "b")
        assert not list((small_disk / "blobs" / ".parts").iterdir())
        for i in range(100):
            try:
                await kv.put(f"k{i}", bytes(100_000))
            except StoreError as error:
                assert str(small_disk) in str(error)  # noqa: PT017 - the first that fails is what is looked for
                break
        else:
            raise AssertionError("4 MB held 10 MB")
        found = await kv.get("a")
        assert found is not None
        assert found[0] == b"1"
        assert await content(blobs, "a") == b"1"
        await blobs.delete("room")
        await kv.put("again", b"2")
    async with opened.open_kv() as kv, opened.open_blobs() as blobs:
        for key, value in (("a", b"1"), ("again", b"2")):
            found = await kv.get(key)
            assert found is not None
            assert found[0] == value
        assert await content(blobs, "a") == b"1"


async def test_what_is_small_is_done_at_once_unless_in_a_hurry_and_the_log_is_written_back(tmp_path: Path) -> None:
    async with store("disk", path=str(tmp_path)).open_kv() as kv:
        log = tmp_path / "kv.sqlite3-wal"
        await asyncio.sleep(0.03)
        putting = kv.put("rare", b"x")
        with pytest.raises(StopIteration):
            putting.send(None)  # without a turn of the loop
        largest = at_once = 0
        for number in range(4000):
            putting = kv.put(f"key-{number}", b"x" * 1000)
            try:
                putting.send(None)
            except StopIteration:
                at_once += 1
            else:
                putting.close()  # the thread does it all the same
            if number % 20 == 0:
                await asyncio.sleep(0.001)
            largest = max(largest, log.stat().st_size)
        assert 0 < at_once < 2000
        assert largest < 16 << 20, "4000 of them write more than that"
        assert await kv.get("key-3999") is not None


async def test_what_is_large_keeps_others_from_nothing_and_is_read_whole(tmp_path: Path) -> None:
    async with store("disk", path=str(tmp_path)).open_kv() as kv:
        large = b"x" * (8 << 20)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(kv.put("large", large))
            small = [tasks.create_task(kv.put_if_absent(f"small-{number}", b"y")) for number in range(100)]
        assert all(task.result()[0] for task in small)
        found = await kv.get("large")
        assert found is not None
        assert found[0] == large
        assert await kv.compare_and_set("large", found[1], b"z") is not None
        assert await kv.delete("large")
