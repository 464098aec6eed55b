"""What a session costs in round trips to the key-value store: counted on Redis, and on a store in memory."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fake_executor import FakeExecutor, wait_until
from redis_fixture import fresh_prefix, redis_settings
from runnerd import Blobs, KeyValues
from runnerd.scheduler import Scheduler
from runnerd.workspace import FileSettings, WorkspaceSettings
from scheduling import job, result
from stores import store
from test_session_door import pieces
from test_session_sweeping import settled
from test_sessions import OWNER, door, sessions

FILES = 50
SETTINGS = WorkspaceSettings(files=FileSettings(most=FILES))


class Counting:
    """A key-value store that counts what it is asked, and how often nothing was under way when something was."""

    def __init__(self, kv: KeyValues) -> None:
        self.asked: Counter[str] = Counter()
        self.trips = 0
        self.value_bytes = kv.value_bytes
        self._kv = kv
        self._under_way = 0

    def clear(self) -> None:
        self.asked.clear()
        self.trips = 0

    def __getattr__(self, name: str) -> Any:
        async def ask(key: str = "", *args: Any) -> Any:
            if key.startswith("daemons/"):  # signs of life have a time of their own
                return await getattr(self._kv, name)(key, *args)
            self.asked[f"{name} {key.partition('/')[0]}"] += 1
            self.trips += self._under_way == 0
            self._under_way += 1
            try:
                await asyncio.sleep(0)  # so long takes the fastest wire
                return await getattr(self._kv, name)(key, *args)
            finally:
                self._under_way -= 1

        return ask


@pytest.fixture(params=["memory", "redis"])
async def counting(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Counting]:
    if request.param == "memory":
        async with store("memory").open_kv() as kv:
            yield Counting(kv)
        return
    async with redis_settings(tmp_path) as settings, store("redis", **settings, prefix=fresh_prefix()).open_kv() as kv:
        yield Counting(kv)


@asynccontextmanager
async def counted(counting: Counting, blobs: Blobs, **more: Any) -> AsyncIterator[Scheduler]:
    async with sessions(counting, blobs, settings=SETTINGS, **more) as scheduler:  # type: ignore[arg-type]
        yield scheduler


async def test_a_session_hit_adds_four_round_trips_at_most(counting: Counting, blobs: Blobs) -> None:
    async with counted(counting, blobs) as scheduler:
        session = (await result(scheduler, job("add 1; write a.txt x", session=""))).session
        for code, trips, asked in (
            ("cat a.txt", 3, {}),
            ("add 1", 3, {}),
            ("big 9999", 4, {"put states": 1}),
            ("add 1", 3, {"get states": 1}),
            (f"big {1 << 20}", 4, {"put states": 1}),
            (f"big {1 << 20}", 4, {"get states": 1, "put states": 1}),
        ):
            await settled(scheduler)  # a former snapshot is removed when nobody waits for it any more
            counting.clear()
            assert (await result(scheduler, job(code, session=session))).status == "ok"
            found = {what: count for what, count in counting.asked.items() if not what.startswith("delete")}
            assert found == {"get sessions": 1, "compare_and_set sessions": 2, **asked}, code
            await settled(scheduler)
            assert counting.trips - counting.asked["delete states"] <= trips, code


async def test_a_snapshot_is_not_held_while_its_job_waits_for_a_slot(counting: Counting, blobs: Blobs) -> None:
    executor = FakeExecutor()
    async with counted(counting, blobs, executor=executor, slots=1) as scheduler:
        session = (await result(scheduler, job("big 9999", session=""))).session
        running = result(scheduler, job("wait"))
        waiting = result(scheduler, job("ls", session=session))
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(running)
            await wait_until(lambda: executor.running.total() == 1, "the slot is taken")
            counting.clear()
            second = tasks.create_task(waiting)
            await wait_until(lambda: scheduler.health()["queued"] == 1, "the other job waits")
            assert counting.asked["get states"] == 0
            executor.go.set()
        assert (first.result().status, second.result().status) == ("ok", "ok")
        assert counting.asked["get states"] == 1


async def test_a_list_of_files_is_one_round_trip(counting: Counting, blobs: Blobs) -> None:
    async with counted(counting, blobs) as scheduler:
        it = door(scheduler)
        session = (await it.create(OWNER)).id
        for number in range(FILES):
            await it.upload(OWNER, session, f"{number}.txt", pieces(b"x"))
        counting.clear()
        assert len((await it.find(OWNER, session)).files) == FILES
        assert (counting.trips, counting.asked) == (1, {"get sessions": 1})
