"""Sessions on real stores that break: an S3 server killed amid an output, a disk that is full; and a thousand sessions that expire."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from fake_executor import FakeExecutor
from redis_fixture import fresh_prefix, keys_of, redis_settings
from runnerd import Blobs, KeyValues
from runnerd.limits import LimitSettings
from runnerd.workspace import FileSettings, SessionSettings, StateSettings, WorkspaceSettings
from s3_fixture import S3Server, fresh_directory, left_over, s3_settings
from scheduling import job, result
from stores import store
from test_session_sweeping import Clock, sweeper, swept
from test_sessions import OWNER, content, door, sessions

LARGE = 12 << 20
"""Bytes that S3 gets in several parts."""
SETTINGS = WorkspaceSettings(files=FileSettings(total_bytes=1 << 30))
LIMITS = LimitSettings(file_bytes=1 << 30)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Amid:
    """A blob store; amid the next blob of many chunks something happens."""

    def __init__(self, blobs: Blobs) -> None:
        self.happens: Callable[[], Awaitable[None]] | None = None
        self._blobs = blobs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._blobs, name)

    async def put(self, key: str, chunks: AsyncIterator[bytes], content_type: str) -> Any:
        async def passing() -> AsyncIterator[bytes]:
            number = 0
            async for chunk in chunks:
                yield chunk
                number += 1
                if number == 100 and self.happens is not None:
                    happens, self.happens = self.happens, None
                    await happens()

        return await self._blobs.put(key, passing(), content_type)


@pytest.mark.slow
async def test_an_s3_server_killed_while_an_output_is_stored_costs_the_job_and_nothing_else(kv: KeyValues, tmp_path: Path) -> None:
    async with S3Server(tmp_path) as server:
        settings = server.settings | {"prefix": fresh_directory(), "retries": 0, "timeout_s": 20.0}
        async with store("s3", **settings).open_blobs() as s3:
            blobs, executor = Amid(s3), FakeExecutor()
            async with sessions(kv, blobs, executor, settings=SETTINGS, limits=LIMITS) as scheduler:  # type: ignore[arg-type]
                first = await result(scheduler, job("add 1; write a.txt old", session=""), owned=True)
                it = job(f"add 1; write a.txt new; fill large.bin {LARGE}", session=first.session)
                blobs.happens = server.kill
                end = await result(scheduler, it, owned=True)
                assert (end.status, end.starts, end.stored) == ("dead", 3, ())
                assert end.reason.startswith(f"given up after 3 starts: S3 {settings['endpoint']}, bucket {settings['bucket']}: "), end
                assert await result(scheduler, it, owned=True) == end, "it is recorded"

                await server.start()
                seen = await door(scheduler).find(OWNER, first.session)
                assert (seen.files, seen.older, seen.job) == (first.stored, (), ""), "of what was stored nothing is to be seen"
                assert await content(door(scheduler), first.session, first.stored[0].id) == b"old"
                again = await result(scheduler, job(it.code or "", session=first.session), owned=True)
                assert (again.status, again.stdout) == ("ok", "2\n"), "its variables are as the last job left them that ended well"
                assert sorted(file.name for file in again.stored) == ["a.txt", "large.bin"]
                (large,) = [file for file in again.stored if file.size == LARGE]
                assert await content(door(scheduler), first.session, large.id) == bytes(LARGE)


@pytest.mark.parametrize("what", ["blobs", "keys"])
async def test_a_disk_that_is_full_costs_the_job_and_nothing_else(what: str, tmp_path: Path) -> None:
    room = {"blobs": {"blob_bytes": 4 << 20}, "keys": {"kv_bytes": 2 << 20}}[what]
    full = {"blobs": f"fill large.bin {LARGE}", "keys": f"big {3 << 20}"}[what]
    disk = store("disk", path=str(tmp_path), **room)
    async with (
        disk.open_kv() as kv,
        disk.open_blobs() as blobs,
        sessions(kv, blobs, settings=SETTINGS, limits=LIMITS, record_patience_s=0.2) as scheduler,
    ):
        first = await result(scheduler, job("add 1; write a.txt old", session=""), owned=True)
        end = await result(scheduler, job(f"add 1; {full}", session=first.session), owned=True)
        assert (end.status, end.stored) == ("dead", ())
        assert f"full at {next(iter(room.values()))} bytes" in end.reason
        assert (await result(scheduler, job("add 1; ls", session=first.session), owned=True)).stdout == "2\na.txt\n"


@pytest.mark.slow
async def test_of_a_thousand_sessions_no_key_and_no_object_is_left(tmp_path: Path, clock: Clock) -> None:
    number, at_once = 1000, 50
    lives = WorkspaceSettings(sessions=SessionSettings(ttl_s=100, most_per_entity=1000), state=StateSettings(ttl_s=50, archive=False))
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(redis_settings(tmp_path / "redis")) | {"prefix": fresh_prefix()}
        s3 = await stack.enter_async_context(s3_settings(tmp_path / "s3")) | {"prefix": fresh_directory()}
        kv = await stack.enter_async_context(store("redis", **redis).open_kv())
        blobs = await stack.enter_async_context(store("s3", **s3).open_blobs())
        async with sessions(kv, blobs, settings=lives, slots=at_once) as scheduler:
            for begin in range(0, number, at_once):
                codes = [f"add 1; write a.txt {n}; big {100 + 100 * (n % 50)}" for n in range(begin, begin + at_once)]
                ends = await asyncio.gather(*(result(scheduler, job(code, session="", entity=f"e{n % 7}")) for n, code in enumerate(codes)))
                assert {end.status for end in ends} == {"ok"}
            assert len(left_over(s3)[0]) == number
            clock.ahead_s += 200
            await swept(scheduler)
            assert sweeper(scheduler).counts["sessions_expired"] == number
        assert left_over(s3) == ([], [])
        assert await keys_of(redis) == []
