"""What becomes of sessions, files and snapshots that nobody uses: archived, expired, and nothing left of them."""

import asyncio
import time
from typing import Any

import pytest

from fake_executor import FakeExecutor, wait_until
from runnerd import Blobs, KeyValues, NotFound, Owner
from runnerd.scheduler import Scheduler
from runnerd.workspace import SessionSettings, StateSettings, WorkspaceSettings
from runnerd.workspace.sweeper import Sweeper
from scheduling import job, result
from stores import store
from test_session_door import pieces
from test_sessions import OWNER, content, door, sessions

DAY_S = 86_400
SETTINGS = WorkspaceSettings(
    sessions=SessionSettings(ttl_s=3 * DAY_S),
    state=StateSettings(ttl_s=7200, archive_after_s=3600, archive_ttl_s=7 * DAY_S, inline_bytes=0),
)


class Clock:
    """The time of day, which a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead_s = 0.0
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + self.ahead_s)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def sweeper(scheduler: Scheduler) -> Sweeper:
    assert scheduler._workspaces is not None
    return scheduler._workspaces.sweeper


async def swept(scheduler: Scheduler) -> None:
    """Both turns, and what they left to be done in time."""
    await sweeper(scheduler).clean()
    await sweeper(scheduler).look_after_states()
    await settled(scheduler)


async def settled(scheduler: Scheduler) -> None:
    await wait_until(lambda: scheduler._workspaces._visits._chores == 0, "what need not be waited for is done")  # type: ignore[union-attr]


def left(kv: Any) -> list[str]:
    """Keys and rankings' members that there are, but for records of jobs and signs of life."""
    ranked = [f"{ranking} {member}" for ranking, members in kv._rankings.items() for member in members.scores]
    return [key for key in kv._entries if not key.startswith(("jobs/", "daemons/"))] + ranked


async def test_a_snapshot_is_archived_restored_and_expires(kv: KeyValues, blobs: Blobs, clock: Clock) -> None:
    async with sessions(kv, blobs, settings=SETTINGS) as scheduler:
        session = (await result(scheduler, job("add 1; write a.txt x", session=""))).session
        clock.ahead_s += 3000
        await swept(scheduler)
        assert await blobs.list("states/") == [], "too early"
        await result(scheduler, job("add 1", session=session))
        clock.ahead_s += 3000
        await swept(scheduler)
        assert await blobs.list("states/") == [], "it was used since"
        clock.ahead_s += 1000
        await swept(scheduler)
        assert len(await blobs.list("states/")) == 1
        seen = await door(scheduler).find(OWNER, session)
        assert seen.snapshot is not None
        assert seen.snapshot.archived
        assert not [key for key in left(kv) if key.startswith("states/")], "it lies in one place only"

        clock.ahead_s += 2 * DAY_S
        await swept(scheduler)
        end = await result(scheduler, job("add 1; ls", session=session))
        assert end.stdout == "3\na.txt\n", "restored on demand"
        await settled(scheduler)
        assert await blobs.list("states/") == []
        clock.ahead_s += 4000
        await swept(scheduler)
        assert len(await blobs.list("states/")) == 1

        clock.ahead_s += 4 * DAY_S
        await swept(scheduler)
        assert await blobs.list("files/") == [], "files live as long as the session's own time"
        assert (await result(scheduler, job("add 1; ls", session=session))).stdout == "4\n\n", "an archived snapshot longer"
        clock.ahead_s += 4000
        await swept(scheduler)
        clock.ahead_s += 8 * DAY_S
        await swept(scheduler)
        with pytest.raises(NotFound):
            await door(scheduler).find(OWNER, session)
        assert sweeper(scheduler).counts["states_archived"] == 3
    assert await blobs.list() == []
    assert left(kv) == []


async def test_a_session_lives_as_long_as_it_is_used(kv: KeyValues, blobs: Blobs, clock: Clock) -> None:
    settings = WorkspaceSettings(sessions=SessionSettings(ttl_s=100), state=StateSettings(enabled=False))
    async with sessions(kv, blobs, settings=settings) as scheduler:
        it = door(scheduler)
        session = (await it.create(OWNER)).id
        file = await it.upload(OWNER, session, "a", pieces(b"x"))
        for _ in range(5):
            clock.ahead_s += 90
            await swept(scheduler)
            assert await content(it, session, file.id) == b"x", "reading is a use"
        clock.ahead_s += 90
        await it.list(OWNER)
        clock.ahead_s += 20
        with pytest.raises(NotFound):
            await it.find(OWNER, session)
        assert (await result(scheduler, job("ls", session=session))).warnings != (), "gone before it is swept"
        await swept(scheduler)
        assert len(await it.list(OWNER)) == 1


@pytest.mark.parametrize("kind", ["memory", "disk"])
async def test_of_a_thousand_sessions_nothing_is_left(kind: str, tmp_path: Any, clock: Clock) -> None:
    settings = WorkspaceSettings(sessions=SessionSettings(ttl_s=100, most_per_entity=1000), state=StateSettings(ttl_s=50, archive=False))
    it = store(kind, **({"path": str(tmp_path)} if kind == "disk" else {}))
    number = 1000 if kind == "memory" else 100
    async with it.open_kv() as kv, it.open_blobs() as blobs, sessions(kv, blobs, settings=settings) as scheduler:
        made = 0
        while made < number:
            codes = [f"add 1; write a.txt {made + n}; big {100 + 100 * n}" for n in range(50)]
            ends = [result(scheduler, job(code, session="", entity=f"e{n % 7}")) for n, code in enumerate(codes)]
            assert {end.status for end in await asyncio.gather(*ends)} == {"ok"}
            made += 50
        assert len(await blobs.list("files/", most=2000)) == number
        clock.ahead_s += 200
        await swept(scheduler)
        assert sweeper(scheduler).counts["sessions_expired"] == number
        assert await blobs.list() == []
        for ranking in ("sessions", "states"):
            assert await kv.ranked(ranking) == []
        if kind == "memory":
            assert left(kv) == []


async def test_blobs_that_no_session_names_go_when_they_are_old(kv: KeyValues, blobs: Blobs, clock: Clock) -> None:
    settings = WorkspaceSettings(sessions=SessionSettings(orphan_s=1000, cleanup_most=4))
    async with sessions(kv, blobs, settings=settings) as scheduler:
        it = door(scheduler)
        session = (await it.create(OWNER)).id
        named = [await it.upload(OWNER, session, f"{n}", pieces(b"x")) for n in range(3)]
        for n in range(10):
            await blobs.put(f"files/t/{session}/orphan{n}", pieces(b"x"))
            await blobs.put(f"states/t/nobody/orphan{n}", pieces(b"x"))
        await blobs.put("else/where", pieces(b"x"))
        for _ in range(6):
            await swept(scheduler)
        assert len(await blobs.list()) == 24, "too young"
        clock.ahead_s += 2000
        for turn in range(1, 7):
            await swept(scheduler)
            assert 24 - len(await blobs.list()) <= 4 * turn, "so many at a time"
        assert [blob.key for blob in await blobs.list()] == sorted(["else/where", *(f"files/t/{session}/{file.id}" for file in named)]), (
            "in the end all of them"
        )
        assert sweeper(scheduler).counts["orphans_removed"] == 20


async def test_a_session_in_which_a_job_works_is_not_swept(kv: KeyValues, blobs: Blobs, clock: Clock) -> None:
    executor = FakeExecutor()
    settings = WorkspaceSettings(sessions=SessionSettings(ttl_s=10, orphan_s=0.001))
    async with sessions(kv, blobs, executor, settings=settings) as scheduler, sessions(kv, blobs, settings=settings) as other:
        session = (await result(scheduler, job("add 1; write a.txt x", session=""))).session
        task = asyncio.create_task(result(scheduler, job("add 1; write b.txt x; wait", session=session)))
        await wait_until(lambda: executor.running.total() == 1, "it runs")
        clock.ahead_s += 30 * DAY_S
        await swept(other)
        await swept(scheduler)
        executor.go.set()
        assert (await task).stdout == "2\n"
        assert (await result(other, job("add 1; ls", session=session))).stdout == "3\na.txt b.txt\n"


@pytest.mark.parametrize("jump_s", [-400 * DAY_S, 400 * DAY_S])
async def test_a_clock_that_jumps_breaks_nothing(kv: KeyValues, blobs: Blobs, clock: Clock, jump_s: float) -> None:
    async with sessions(kv, blobs, settings=SETTINGS) as scheduler:
        session = (await result(scheduler, job("add 1; write a.txt x", session=""))).session
        clock.ahead_s += jump_s
        if jump_s < 0:
            assert (await result(scheduler, job("add 1; ls", session=session))).stdout == "2\na.txt\n"
        await swept(scheduler)
        clock.ahead_s -= jump_s
        end = await result(scheduler, job("add 1; ls", session=session))
        assert end.status == "ok"
        assert end.stdout == ("3\na.txt\n" if jump_s < 0 else "1\n\n"), "what had expired by the clock is gone whole"
        clock.ahead_s += 30 * DAY_S
        await swept(scheduler)
        await swept(scheduler)
    assert await blobs.list() == []
    assert left(kv) == []


async def test_one_daemon_sweeps_at_a_time_and_each_does_in_its_turn(kv: KeyValues, blobs: Blobs) -> None:
    settings = WorkspaceSettings(sessions=SessionSettings(ttl_s=0.05, cleanup_s=0.02), state=StateSettings(enabled=False))
    async with sessions(kv, blobs, settings=settings) as one, sessions(kv, blobs, settings=settings) as two:
        for _ in range(20):
            await door(one).create(Owner(tenant="t", entity="e"))
        await wait_until(lambda: left(kv) == [], "all have expired")
        counts = [sweeper(each).counts["sessions_expired"] for each in (one, two)]
        assert sum(counts) == 20, "each by one of them"
        async with sweeper(one)._lease("x", 60) as mine, sweeper(two)._lease("x", 60) as too:
            assert (mine, too) == (True, False)
        async with sweeper(two)._lease("x", 60) as mine:
            assert mine


async def test_a_session_removed_while_a_job_works_in_it_stays_removed(kv: KeyValues, blobs: Blobs) -> None:
    executor = FakeExecutor()
    async with sessions(kv, blobs, executor) as scheduler:
        session = (await result(scheduler, job("add 1; write a.txt x", session=""))).session
        for owned in (True, False):
            task = asyncio.create_task(result(scheduler, job("add 1; write b.txt x; wait", session=session), owned))
            await wait_until(lambda: executor.running.total() == 1, "it runs")
            await door(scheduler).delete(OWNER, session)
            executor.go.set()
            end = await task
            assert (end.status, end.session) == ("ok", session)
            assert owned or (end.stored, end.warnings) == ((), (f"session {session} was removed while the job ran",))
            with pytest.raises(NotFound):
                await door(scheduler).find(OWNER, session)
            executor.go.clear()
            session = (await result(scheduler, job("add 1", session=""))).session
        await door(scheduler).delete(OWNER, session)
        await settled(scheduler)
        for one in await door(scheduler).list(OWNER):
            await door(scheduler).delete(OWNER, one.id)
    assert await blobs.list() == []
    assert left(kv) == []
