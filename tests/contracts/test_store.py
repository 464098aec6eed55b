"""What every store promises, run against each implementation, found as the daemon finds it: through its entry point."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runnerd import Blobs, KeyValues, Store, StoreError

KINDS = ("memory", "disk")


def store(kind: str, path: str | Path, **settings: Any) -> Store:
    """The store that `[store.kv] kind = …` gives."""
    (point,) = [point for point in entry_points(group="runnerd") if point.name == kind]
    (type_,) = point.load().register_stores()
    where = {"path": str(path)} if kind == "disk" else {}
    made: Store = msgspec.convert({"kind": kind} | where | settings, type_)
    return made


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def kv(kind: str, tmp_path: Path) -> AsyncIterator[KeyValues]:
    async with store(kind, tmp_path).open_kv() as kv:
        yield kv


@pytest.fixture
async def blobs(kind: str, tmp_path: Path) -> AsyncIterator[Blobs]:
    async with store(kind, tmp_path).open_blobs() as blobs:
        yield blobs


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    try:
        async with asyncio.timeout(30):
            while not await condition():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"waited in vain: {what}") from None


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def content(blobs: Blobs, key: str) -> bytes:
    return b"".join([chunk async for chunk in blobs.get(key)])


async def test_puts_and_gets_any_bytes(kv: KeyValues) -> None:
    assert await kv.get("jobs/t/a") is None
    for value in (b"", b"\x00\xff\n", bytes(range(256)) * 4096):
        revision = await kv.put("jobs/t/a", value)
        assert await kv.get("jobs/t/a") == (value, revision)


async def test_every_write_has_a_revision_of_its_own(kv: KeyValues) -> None:
    revisions = [await kv.put("a", b"same") for _ in range(3)]
    await kv.delete("a")
    revisions.append(await kv.put("a", b"same"))
    assert len(set(revisions)) == 4, "one that was deleted does not come back"


async def test_put_if_absent_tells_what_stands(kv: KeyValues) -> None:
    written, value, revision = await kv.put_if_absent("a", b"1")
    assert (written, value) == (True, b"1")
    assert await kv.put_if_absent("a", b"2") == (False, b"1", revision)


async def test_put_if_absent_has_one_winner_of_a_hundred(kv: KeyValues) -> None:
    answers = await asyncio.gather(*(kv.put_if_absent("a", str(i).encode()) for i in range(100)))
    winners = [answer for answer in answers if answer[0]]
    assert len(winners) == 1
    assert {answer[1:] for answer in answers} == {winners[0][1:]}


async def test_compare_and_set_loses_no_count(kv: KeyValues) -> None:
    await kv.put("a", b"0")

    async def count() -> None:
        while True:
            found = await kv.get("a")
            assert found is not None
            if await kv.compare_and_set("a", found[1], str(int(found[0]) + 1).encode()) is not None:
                return

    await asyncio.gather(*(count() for _ in range(30)))
    found = await kv.get("a")
    assert found is not None
    assert found[0] == b"30"


async def test_compare_and_set_needs_the_revision_that_stands(kv: KeyValues) -> None:
    old = await kv.put("a", b"1")
    new = await kv.put("a", b"2")
    assert await kv.compare_and_set("a", old, b"3") is None
    assert await kv.compare_and_set("a", "nonsense", b"3") is None
    assert await kv.compare_and_set("nothing", new, b"3") is None
    last = await kv.compare_and_set("a", new, b"3")
    assert await kv.get("a") == (b"3", last)


async def test_delete_twice_is_no_error(kv: KeyValues) -> None:
    await kv.put("a", b"1")
    await kv.delete("a")
    await kv.delete("a")
    assert await kv.get("a") is None


async def test_entries_expire_for_every_operation(kv: KeyValues) -> None:
    for key in ("a", "b", "c"):
        revision = await kv.put(key, b"1", ttl_s=0.01)
    await kv.put("stays", b"1", ttl_s=3600)
    await kv.put("forever", b"1")

    async def gone() -> bool:
        return await kv.get("c") is None

    await until(gone, "expired")
    assert await kv.compare_and_set("c", revision, b"2") is None
    assert (await kv.put_if_absent("a", b"2"))[:2] == (True, b"2"), "what expired is absent"
    assert await kv.expire(1) == 1
    assert await kv.expire() == 1
    assert await kv.expire() == 0
    assert await kv.get("a") is not None
    assert await kv.get("stays") is not None
    assert await kv.get("forever") is not None


async def test_a_write_sets_the_life_anew(kv: KeyValues) -> None:
    await kv.put("a", b"1", ttl_s=0.01)
    await kv.put("a", b"2")
    await kv.put("b", b"1", ttl_s=0.01)

    async def gone() -> bool:
        return await kv.get("b") is None

    await until(gone, "expired")
    await kv.expire()
    assert await kv.get("a") is not None


@pytest.mark.parametrize("ttl_s", [0, -1, float("nan"), float("inf")])
async def test_a_life_that_is_none_is_refused(kv: KeyValues, ttl_s: float) -> None:
    with pytest.raises(StoreError, match="ttl_s"):
        await kv.put("a", b"1", ttl_s)
    assert await kv.get("a") is None


BAD_KEYS = ["", "/", "a/", "/a", "a//b", "..", "../a", "a/../b", "a b", "a\n", "a\0", "é", "a.b", "x" * 65, "/".join(["x" * 60] * 20)]


@pytest.mark.parametrize("key", BAD_KEYS)
async def test_only_tokens_are_keys(kv: KeyValues, blobs: Blobs, key: str, tmp_path: Path) -> None:
    before = sorted(path for path in tmp_path.rglob("*") if "kv" not in path.name)
    for ask in (kv.get(key), kv.put(key, b"1"), kv.put_if_absent(key, b"1"), kv.compare_and_set(key, "1", b"1"), kv.delete(key)):
        with pytest.raises(StoreError, match="tokens"):
            await ask
    for ask in (blobs.put(key, chunks(b"1")), blobs.delete(key), content(blobs, key)):
        with pytest.raises(StoreError, match="tokens"):
            await ask
    assert sorted(path for path in tmp_path.rglob("*") if "kv" not in path.name) == before


async def test_a_full_store_says_so_and_goes_on(kind: str, tmp_path: Path) -> None:
    bound = {"memory": {"most_bytes": 1 << 20}, "disk": {"kv_bytes": 1 << 20}}[kind]
    async with store(kind, tmp_path, **bound).open_kv() as kv:
        await kv.put("a", b"1")
        with pytest.raises(StoreError, match=r"(most|kv)_bytes"):
            await kv.put("b", bytes(2 << 20))
        with pytest.raises(StoreError, match=r"(most|kv)_bytes"):
            await asyncio.gather(*(kv.put(f"c{i}", bytes(50_000), ttl_s=1) for i in range(100)))
        await until(lambda: absent(kv, "c0"), "expired")
        await kv.put("d", bytes(100_000))  # makes room of what expired
        found = await kv.get("a")
        assert found is not None
        assert found[0] == b"1"


async def absent(kv: KeyValues, key: str) -> bool:
    return await kv.get(key) is None


async def test_one_that_fails_takes_none_along(kind: str, tmp_path: Path) -> None:
    bound = {"memory": {"most_bytes": 1 << 20}, "disk": {"kv_bytes": 1 << 20}}[kind]
    async with store(kind, tmp_path, **bound).open_kv() as kv:
        asked = [kv.put(f"k{i}", bytes(2 << 20) if i == 10 else b"small") for i in range(20)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert [i for i, answer in enumerate(answers) if isinstance(answer, StoreError)] == [10]


async def test_cancelled_askers_harm_nobody(kv: KeyValues) -> None:
    tasks = [asyncio.create_task(kv.put("a", str(i).encode())) for i in range(50)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert await kv.get("a") is not None


async def test_blobs_come_back_in_chunks(blobs: Blobs) -> None:
    parts = [os.urandom(100_000) for _ in range(30)]
    assert await blobs.put("s/one", chunks(*parts)) == 3_000_000
    assert await content(blobs, "s/one") == b"".join(parts)
    assert max([len(chunk) async for chunk in blobs.get("s/one")]) <= 1 << 20
    assert await blobs.put("s/empty", chunks()) == 0
    assert await content(blobs, "s/empty") == b""


async def test_a_blob_may_lie_below_another(blobs: Blobs) -> None:
    await blobs.put("a", chunks(b"1"))
    await blobs.put("a/b", chunks(b"2"))
    await blobs.put("a", chunks(b"3"))
    assert [await content(blobs, key) for key in ("a", "a/b")] == [b"3", b"2"]


async def test_no_blob_is_a_key_error(blobs: Blobs) -> None:
    with pytest.raises(KeyError):
        await content(blobs, "nothing")
    await blobs.put("a/b", chunks(b"1"))
    await blobs.delete("a/b")
    await blobs.delete("a/b")
    with pytest.raises(KeyError):
        await content(blobs, "a/b")


async def test_a_blob_is_whole_or_not_there(blobs: Blobs, tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        with pytest.raises(KeyError):
            await content(blobs, "a")
        raise RuntimeError("the sender is gone")

    with pytest.raises(RuntimeError, match="gone"):
        await blobs.put("a", broken())
    with pytest.raises(KeyError):
        await content(blobs, "a")

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await asyncio.sleep(0)

    task = asyncio.create_task(blobs.put("a", endless()))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(KeyError):
        await content(blobs, "a")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "blobs.lock"], "nothing half written is left"


async def test_blobs_have_a_bound(kind: str, tmp_path: Path) -> None:
    bound = {"memory": {"most_bytes": 1000}, "disk": {"blob_bytes": 1000}}[kind]
    async with store(kind, tmp_path, **bound).open_blobs() as blobs:
        for _ in range(5):
            await blobs.put("a", chunks(bytes(400)))  # replaces itself
        with pytest.raises(StoreError, match="_bytes"):
            await blobs.put("b", chunks(bytes(400), bytes(400)))
        await blobs.put("b", chunks(bytes(400)))
        await blobs.delete("a")
        await blobs.put("c", chunks(bytes(400)))


# What only a store on disk promises.


async def test_disk_keeps_what_was_written(tmp_path: Path) -> None:
    disk = store("disk", tmp_path / "new" / "place", fsync=True)
    async with disk.open_kv() as kv, disk.open_blobs() as blobs:
        revision = await kv.put("a", b"1")
        await blobs.put("b", chunks(b"2"))
    async with disk.open_kv() as kv, disk.open_blobs() as blobs:
        assert await kv.get("a") == (b"1", revision)
        assert await content(blobs, "b") == b"2"
    assert (tmp_path / "new" / "place").stat().st_mode & 0o777 == 0o700


async def test_disk_is_held_by_one_daemon(tmp_path: Path) -> None:
    disk = store("disk", tmp_path)
    async with disk.open_kv():
        with pytest.raises(StoreError, match=f"{tmp_path}: process {os.getpid()} uses it already"):
            async with disk.open_kv():
                pass
    async with disk.open_kv():
        pass


async def test_disk_says_what_is_wrong_with_its_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        async with store("disk", tmp_path / "file").open_kv():
            pass
    (tmp_path / "kv.sqlite3").write_bytes(b"this is no database" * 1000)
    with pytest.raises(StoreError, match=r"kv\.sqlite3: can't be used as a database"):
        async with store("disk", tmp_path).open_kv():
            pass
    with pytest.raises(StoreError, match="path is missing"):
        async with store("disk", "").open_kv():
            pass


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
        async with store("disk", tmp_path).open_kv():
            pass
    for _ in range(200):
        writer.stdout.readline()
    writer.send_signal(signal.SIGKILL)
    said = dict(line.split() for line in writer.stdout.read().splitlines() if len(line.split()) == 2)
    writer.wait()
    writer.stdout.close()
    disk = store("disk", tmp_path)
    async with disk.open_kv() as kv, disk.open_blobs() as blobs:
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
            assert path.is_dir() or path.stat().st_size == 64 * 4096
