"""What ingresses ask of sessions: files in and out as streams, snapshots with their hash, limits told by name; and what it costs."""

import hashlib
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fake_executor import FakeExecutor
from runnerd import Blobs, Conflict, Job, KeyValues, Mount, NotFound, OverLimit, Owner, Rejected
from runnerd.codec import check_job
from runnerd.limits import LimitSettings
from runnerd.workspace import FileSettings, StateSettings, WorkspaceSettings
from runnerd.workspace.names import content_type_of, new_token, safe_name
from scheduling import job, result
from stores import store
from test_sessions import OWNER, content, door, sessions


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def test_a_file_comes_in_and_goes_out(kv: KeyValues, blobs: Blobs) -> None:
    async with sessions(kv, blobs) as scheduler:
        it = door(scheduler)
        session = (await it.create(OWNER)).id
        first = await it.upload(OWNER, session, "dir/räder.csv", pieces(b"a,", b"b\n"))
        assert (first.name, first.size, first.content_type) == ("dir/räder.csv", 4, "text/csv")
        assert first.sha256 == hashlib.sha256(b"a,b\n").hexdigest()
        assert len(first.id) == 21
        assert await content(it, session, first.id) == b"a,b\n"
        assert await content(it, session, first.id, start=1, end=3) == b",b"
        second = await it.upload(OWNER, session, "dir/räder.csv", pieces(b"c"), "text/x-mine; a=b")
        assert second.content_type == "text/x-mine; a=b"
        seen = await it.find(OWNER, session)
        assert (seen.files, seen.older) == ((second,), (first,)), "a second one of the name is its next version"
        assert (await result(scheduler, job("cat dir/räder.csv", session=session))).stdout == "c\n"
        await it.remove(OWNER, session, second.id)
        seen = await it.find(OWNER, session)
        assert (seen.files, seen.older) == ((), (first,))
        with pytest.raises(NotFound, match="there is no file"):
            await it.download(OWNER, session, second.id)
        with pytest.raises(NotFound, match="there is no file"):
            await it.remove(OWNER, session, second.id)
        await it.delete(OWNER, session)
        for gone in (it.find, it.delete, it.load, it.forget):
            with pytest.raises(NotFound, match="there is no session"):
                await gone(OWNER, session)
    assert await blobs.list() == []


async def test_another_owner_sees_nothing(kv: KeyValues, blobs: Blobs) -> None:
    async with sessions(kv, blobs) as scheduler:
        it = door(scheduler)
        session = (await it.create(Owner(tenant="t", user="ann"))).id
        file = await it.upload(Owner(tenant="t"), session, "a", pieces(b"x"))
        for other in (Owner(tenant="else"), Owner(tenant="t", user="bob")):
            for asked in (
                it.find(other, session),
                it.delete(other, session),
                it.download(other, session, file.id),
                it.load(other, session),
            ):
                with pytest.raises(NotFound, match="there is no session"):
                    await asked
            with pytest.raises(NotFound):
                await it.upload(other, session, "b", pieces(b"x"))
            with pytest.raises(NotFound):
                await it.save(other, session, pieces(b"x"))
        assert [one.name for one in (await it.find(OWNER, session)).files] == ["a"]


async def test_limits_hold_while_bytes_stream_by(kv: KeyValues, blobs: Blobs) -> None:
    settings = WorkspaceSettings(files=FileSettings(most=2, total_bytes=25), state=StateSettings(max_bytes=8))
    limits = LimitSettings(file_bytes=20, filename_bytes=10)
    async with sessions(kv, blobs, settings=settings, limits=limits) as scheduler:
        it = door(scheduler)
        session = (await it.create(OWNER)).id
        read = []

        async def endless() -> AsyncIterator[bytes]:
            while True:
                read.append(1)
                yield bytes(8)

        with pytest.raises(OverLimit, match=r"larger than 20 bytes: .* limits\.file_bytes"):
            await it.upload(OWNER, session, "a", endless())
        assert len(read) == 3, "no more is read than is needed to know"
        with pytest.raises(OverLimit, match=r"state\.max_bytes"):
            await it.save(OWNER, session, endless())
        await it.upload(OWNER, session, "a", pieces(bytes(20)))
        with pytest.raises(OverLimit, match=r"26 bytes, at most 25 allowed: .* files\.total_bytes"):
            await it.upload(OWNER, session, "b", pieces(bytes(6)))
        await it.upload(OWNER, session, "b", pieces(bytes(5)))
        with pytest.raises(OverLimit, match=r"2 files, at most 2 allowed: .* files\.most"):
            await it.upload(OWNER, session, "c", pieces(b""))
        await it.upload(OWNER, session, "b", pieces(b""))
        with pytest.raises(Rejected, match=r"longer than 10 bytes: .* limits\.filename_bytes"):
            await it.upload(OWNER, session, "x" * 11, pieces(b""))
    assert sorted(blob.size for blob in await blobs.list()) == [0, 5, 20], "nothing is left of what was refused"


async def test_a_snapshot_changes_by_its_hash_only(kv: KeyValues, blobs: Blobs) -> None:
    executor = FakeExecutor()
    async with sessions(kv, blobs, executor) as scheduler:
        it = door(scheduler)
        session = (await it.create(OWNER)).id
        with pytest.raises(NotFound, match="no snapshot"):
            await it.load(OWNER, session)
        with pytest.raises(Conflict):
            await it.save(OWNER, session, pieces(b"41"), expected="stale")
        first = await it.save(OWNER, session, pieces(b"4", b"1"), expected="")
        snapshot, chunks = await it.load(OWNER, session)
        assert (snapshot, b"".join([chunk async for chunk in chunks])) == (first, b"41")
        assert (await result(scheduler, job("add 1", session=session))).stdout == "42\n"
        with pytest.raises(Conflict, match="load it first"):
            await it.save(OWNER, session, pieces(b"0"), expected=first.hash)
        with pytest.raises(Conflict):
            await it.forget(OWNER, session, expected=first.hash)
        now = (await it.find(OWNER, session)).snapshot
        assert now is not None
        await it.forget(OWNER, session, expected=now.hash)
        assert (await result(scheduler, job("add 1", session=session))).stdout == "1\n"


async def test_a_large_file_is_never_held_whole(tmp_path: Any) -> None:
    chunk, number = bytes(1 << 20), 200
    settings = WorkspaceSettings(files=FileSettings(total_bytes=1 << 30))
    disk = store("disk", path=str(tmp_path))

    async def large() -> AsyncIterator[bytes]:
        for _ in range(number):
            yield chunk

    limits = LimitSettings(file_bytes=1 << 30)
    async with disk.open_kv() as kv, disk.open_blobs() as blobs, sessions(kv, blobs, settings=settings, limits=limits) as scheduler:
        it = door(scheduler)
        session = (await it.create(OWNER)).id
        tracemalloc.start()
        try:
            stored = await it.upload(OWNER, session, "large", large())
            _, chunks = await it.download(OWNER, session, stored.id)
            assert sum([len(chunk) async for chunk in chunks]) == stored.size == number << 20
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 32 << 20


@pytest.mark.parametrize(
    ("given", "safe"),
    [
        ("a.txt", "a.txt"),
        ("dir/sub/a.txt", "dir/sub/a.txt"),
        ("/etc/passwd", "etc/passwd"),
        ("../../etc/passwd", "etc/passwd"),
        ("./a//b/.", "a/b"),
        ("..\\win\\it.txt", "win/it.txt"),
        ("C:\\Users\\me\\it.txt", "Users/me/it.txt"),
        ("u\u0308ber.txt", "über.txt"),
        ("日本語 😀.txt", "日本語 😀.txt"),
        ("a\0b\nc\x7f.txt", "abc.txt"),
        (".hidden", ".hidden"),
        ("a" * 255, "a" * 255),
    ],
)
def test_names_are_made_safe_once(given: str, safe: str) -> None:
    assert safe_name(given, "name", 255) == safe
    assert safe_name(safe, "name", 255) == safe


@pytest.mark.parametrize("given", ["", ".", "..", "/", "../..", "\0", " ", "a" * 256, "ü" * 128, "/".join("a" * 33)])
def test_what_is_no_name_is_refused(given: str) -> None:
    with pytest.raises(Rejected, match=r"^name: "):
        safe_name(given, "name", 255)


def test_content_types() -> None:
    assert content_type_of("a.png") == "image/png"
    assert content_type_of("a.png", "text/plain") == "text/plain"
    assert content_type_of("a.png", "bad\r\nheader") == "image/png"
    assert content_type_of("a.unheard-of") == "application/octet-stream"


def test_ids_can_not_be_guessed() -> None:
    ids = {new_token() for _ in range(1000)}
    assert len(ids) == 1000
    assert {len(one) for one in ids} == {21}


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"session": "x" * 257}, "session: "),
        ({"entity": "a\nb"}, "entity: "),
        ({"user": "\0"}, "user: "),
        ({"mounts": (Mount(session="s", id="f", name="../a"),)}, r"mounts\[0\]\.name: "),
    ],
)
def test_what_no_session_can_be_is_refused_where_it_comes_in(fields: dict[str, Any], names: str) -> None:
    with pytest.raises(Rejected, match=f"^{names}"):
        check_job(Job(lang="py", code="x", **fields))
