"""Sessions over the scheduler: what a job leaves is there for the next one, one job at a time, for its owner alone."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from msgspec import structs

from fake_executor import FakeExecutor, wait_until
from runnerd import Blobs, KeyValues, Mount, NotFound, Owner, Result
from runnerd.scheduler import Scheduler
from runnerd.sessions import Sessions
from runnerd.workspace import FileSettings, SessionSettings, StateSettings, WorkspaceSettings
from scheduling import job, result, scheduling

OWNER = Owner(tenant="t")


@asynccontextmanager
async def sessions(
    kv: KeyValues, blobs: Blobs, executor: FakeExecutor | None = None, *, settings: WorkspaceSettings | None = None, **more: Any
) -> AsyncGenerator[Scheduler]:
    async with scheduling(executor or FakeExecutor(), kv, blobs=blobs, workspaces=settings, **more) as scheduler:
        yield scheduler


def door(scheduler: Scheduler) -> Sessions:
    assert scheduler.sessions is not None
    return scheduler.sessions


async def content(sessions: Sessions, session: str, file: str, owner: Owner = OWNER, **range_: int) -> bytes:
    _, chunks = await sessions.download(owner, session, file, **range_)
    return b"".join([chunk async for chunk in chunks])


@pytest.mark.parametrize("owned", [True, False])
async def test_what_a_job_leaves_is_there_for_the_next(kv: KeyValues, blobs: Blobs, owned: bool) -> None:
    async with sessions(kv, blobs) as scheduler:
        first = await result(scheduler, job("add 1; write a/b.txt hello", session=""), owned)
        assert (first.status, first.warnings) == ("ok", ())
        assert len(first.session) == 21
        (stored,) = first.stored
        assert (stored.name, stored.size, stored.content_type, stored.session) == ("a/b.txt", 5, "text/plain", first.session)
        assert first.state is not None
        assert (first.state.restored, first.state.size > 0) == (False, True)
        assert await content(door(scheduler), first.session, stored.id) == b"hello"

        second = await result(scheduler, job("add 1; cat a/b.txt; write a/b.txt bye", session=first.session), owned)
        assert second.stdout == "2\nhello\n"
        assert second.session == first.session
        (changed,) = second.stored
        assert changed.modified_from == stored.id
        assert second.state is not None
        assert second.state.restored
        assert await content(door(scheduler), first.session, stored.id) == b"hello", "the former version stays"
        seen = await door(scheduler).find(OWNER, first.session)
        assert (seen.files, seen.older, seen.job) == ((changed,), (stored,), "")

        failed = await result(scheduler, job("add 1; write c.txt x; fail 3", session=first.session), owned)
        assert (failed.status, [file.name for file in failed.stored]) == ("failed", ["c.txt"])
        third = await result(scheduler, job("add 1; ls", session=first.session), owned)
        assert third.stdout == "3\na/b.txt c.txt\n", "the failed job's files are kept, its state is not"


async def test_a_session_that_is_not_there_means_a_new_one_and_says_so(kv: KeyValues, blobs: Blobs) -> None:
    async with sessions(kv, blobs) as scheduler:
        theirs = await result(scheduler, job("add 1", session="", tenant="else"))
        texts = []
        for unknown in (theirs.session, "x" * 21, "../etc", "no such thing " * 9):
            end = await result(scheduler, job("add 1", session=unknown))
            assert (end.status, end.stdout) == ("ok", "1\n")
            assert end.session not in (unknown, "")
            (warning,) = end.warnings
            texts.append(warning.replace(unknown, "?"))
        assert len(set(texts[:2])) == 1, "whether it is another's is not told"
        with pytest.raises(NotFound):
            await door(scheduler).find(OWNER, theirs.session)


async def test_user_and_entity_are_told_apart_where_both_say_one(kv: KeyValues, blobs: Blobs) -> None:
    async with sessions(kv, blobs) as scheduler:
        anns = await result(scheduler, job("write a.txt x", session="", user="ann", entity="bot 7"))
        file = anns.stored[0]
        mount = (Mount(session=anns.session, id=file.id, name="in/it.txt"),)
        for asks, sees in (
            ({}, True),
            ({"user": "ann"}, True),
            ({"entity": "bot 7"}, True),
            ({"user": "bob"}, False),
            ({"user": "ann", "entity": "bot 8"}, False),
        ):
            end = await result(scheduler, job("ls", session="", mounts=mount, **asks))
            assert (end.stdout == "in/it.txt\n") == sees
            if not sees:
                assert end.status == "rejected"
                assert end.reason.startswith(f"mounts[0]: there is no file '{file.id}' in session")
            end = await result(scheduler, job("ls", session=anns.session, **asks))
            assert (end.session == anns.session) == sees
        listed = await door(scheduler).list(Owner(tenant="t", user="ann", entity="bot 7"))
        assert [one.id for one in listed][:1] == [anns.session]
        assert await door(scheduler).list(Owner(tenant="t", user="bob", entity="bot 7")) == [one for one in listed if one.owner.user == ""]


async def test_jobs_of_one_session_run_one_at_a_time_and_in_order(kv: KeyValues, blobs: Blobs) -> None:
    executor = FakeExecutor()
    async with sessions(kv, blobs, executor, slots=4) as scheduler:
        session = (await result(scheduler, job("add 0", session=""))).session
        jobs = [job("add 1", session=session) for _ in range(20)]
        ends = await asyncio.gather(*(result(scheduler, it) for it in jobs))
        assert [end.stdout for end in ends] == [f"{n}\n" for n in range(1, 21)]


async def test_who_waits_for_a_session_holds_no_slot(kv: KeyValues, blobs: Blobs) -> None:
    executor = FakeExecutor()
    async with sessions(kv, blobs, executor, slots=2) as scheduler:
        session = (await result(scheduler, job("add 0", session=""))).session
        first = asyncio.create_task(result(scheduler, job("wait", session=session)))
        await wait_until(lambda: executor.running.total() == 1, "it runs")
        others = [asyncio.create_task(result(scheduler, job("add 1", session=session))) for _ in range(3)]
        assert (await result(scheduler, job("hi"))).status == "ok"
        assert scheduler.free() == 1
        late = await result(scheduler, job("add 1", session=session, queue_ttl_s=0.05))
        assert (late.status, late.reason) == ("expired", "other jobs worked in its session all the time")
        executor.go.set()
        assert (await first).status == "ok"
        assert [(await other).stdout for other in others] == ["1\n", "2\n", "3\n"]


@pytest.mark.parametrize("owned", [True, False])
async def test_an_attempt_that_was_lost_leaves_nothing(kv: KeyValues, blobs: Blobs, owned: bool) -> None:
    executor = FakeExecutor()
    async with sessions(kv, blobs, executor) as scheduler:
        session = (await result(scheduler, job("add 1", session=""))).session
        end = await result(scheduler, job("add 1; write a.txt x; lose 2", session=session), owned)
        assert (end.status, end.starts) == ("ok", 3)
        dead = await result(scheduler, job("add 1; write b.txt x; lose", session=session), owned)
        assert (dead.status, dead.stored, dead.session) == ("dead", (), session)
        end = await result(scheduler, job("add 1; ls", session=session), owned)
        assert end.stdout == "3\na.txt\n"
    assert len(await blobs.list()) == 1


async def test_cancelled_jobs_leave_the_session_as_it_was(kv: KeyValues, blobs: Blobs) -> None:
    executor = FakeExecutor()
    async with sessions(kv, blobs, executor) as scheduler:
        session = (await result(scheduler, job("add 1", session=""))).session
        for owned in (True, False):
            it = job("add 1; write a.txt x; wait", session=session)
            task = asyncio.create_task(result(scheduler, it, owned))
            await wait_until(lambda it=it: executor.running[it.id] == 1, "it runs")  # type: ignore[misc]
            cancelled = await scheduler.cancel("t", it.id)
            assert cancelled == await task
            assert (cancelled.status, cancelled.stored, cancelled.session) == ("cancelled", (), session)
        assert (await result(scheduler, job("add 1; ls", session=session))).stdout == "2\n\n"


async def test_limits_of_a_run_and_of_the_session_are_told(kv: KeyValues, blobs: Blobs) -> None:
    settings = WorkspaceSettings(files=FileSettings(most=3, total_bytes=1000), state=StateSettings(max_bytes=100))
    async with sessions(kv, blobs, settings=settings) as scheduler:
        end = await result(scheduler, job("; ".join(f"write {i}.txt {i}" for i in range(5)), session=""))
        assert [file.name for file in end.stored] == ["0.txt", "1.txt", "2.txt"]
        assert {skipped.reason[:48] for skipped in end.skipped} == {"the session has 3 files, at most 3 allowed: rais"}
        session = end.session
        end = await result(scheduler, job(f"write 0.txt {'x' * 990}; write 1.txt {'y' * 20}; big 90", session=session))
        assert [file.name for file in end.stored] == ["0.txt"]
        (skipped,) = end.skipped
        assert (skipped.name, "files.total_bytes" in skipped.reason) == ("1.txt", True)
        assert end.state is not None
        kept = end.state.hash
        end = await result(scheduler, job("big 101", session=session))
        assert end.state is not None
        assert "state.max_bytes" in end.state.problem
        assert (end.state.size, end.state.hash) == (90, kept), "the former state stays"
        seen = await door(scheduler).find(OWNER, session)
        assert [file.size for file in seen.files] == [990, 1, 1]
        assert sum(file.size for file in (*seen.files, *seen.older)) <= 1000


async def test_state_is_kept_where_it_is_wanted_only(kv: KeyValues, blobs: Blobs) -> None:
    async with sessions(kv, blobs) as scheduler:
        session = (await result(scheduler, job("add 1", session=""))).session
        end = await result(scheduler, job("add 1", session=session, state=False))
        assert (end.stdout, end.state) == ("1\n", None)
        end = await result(scheduler, job("add 5", lang="js", session=session))
        assert (end.stdout, end.state) == ("5\n", None), "only languages that can keep it do"
        assert (await result(scheduler, job("add 1", session=session))).stdout == "2\n"
    off = WorkspaceSettings(state=StateSettings(enabled=False))
    async with sessions(kv, blobs, settings=off) as scheduler:
        assert (await result(scheduler, job("add 1", session=session))).stdout == "1\n"
    on_error = WorkspaceSettings(state=StateSettings(on_error=True))
    async with sessions(kv, blobs, settings=on_error) as scheduler:
        session = (await result(scheduler, job("add 1; fail 1", session=""))).session
        assert (await result(scheduler, job("add 1", session=session))).stdout == "2\n"


async def test_a_large_state_lies_in_the_blob_store(kv: KeyValues, blobs: Blobs) -> None:
    settings = WorkspaceSettings(state=StateSettings(hot_bytes=1000))
    async with sessions(kv, blobs, settings=settings) as scheduler:
        session = (await result(scheduler, job("big 100000", session=""))).session
        assert [blob.size for blob in await blobs.list("states/")] == [100_000]
        assert (await result(scheduler, job("add 1", session=session))).stdout == "2\n"
    assert await blobs.list("states/") == [], "the version that no session names is gone"


async def test_a_daemon_without_a_blob_store_keeps_no_sessions() -> None:
    async with scheduling(FakeExecutor()) as scheduler:
        for it in (job("hi", session=""), job("hi", mounts=(Mount(session="s", id="f"),))):
            end = await result(scheduler, it)
            assert (end.status, end.reason) == ("rejected", "session: this daemon keeps none: leave session and mounts out")


async def test_of_one_id_the_session_moves_once(kv: KeyValues, blobs: Blobs) -> None:
    executor = FakeExecutor()
    async with sessions(kv, blobs, executor) as scheduler:
        session = (await result(scheduler, job("add 1", session=""))).session
        it = job("add 1; write a.txt x", session=session, id="mine")
        ends: list[Result] = await asyncio.gather(*(result(scheduler, it, owned=True) for _ in range(20)))
        assert all(end == ends[0] for end in ends)
        assert (await result(scheduler, job("add 1", session=session))).stdout == "3\n"
        assert (await result(scheduler, it, owned=True)) == ends[0]
        assert (await result(scheduler, structs.replace(it, code="add 2"), owned=True)).status == "rejected"
        assert (await result(scheduler, job("add 1", session=session))).stdout == "4\n"
        assert executor.starts["mine"] == 1


async def test_sessions_of_an_entity_are_bounded(kv: KeyValues, blobs: Blobs) -> None:
    settings = WorkspaceSettings(sessions=SessionSettings(most_per_entity=3))
    async with AsyncExitStack() as stack:
        scheduler = await stack.enter_async_context(sessions(kv, blobs, settings=settings))
        ends = [await result(scheduler, job("hi", session="", entity="bot")) for _ in range(4)]
        assert [end.status for end in ends] == ["ok", "ok", "ok", "rejected"]
        assert "sessions.most_per_entity" in ends[3].reason
        assert (await result(scheduler, job("hi", session="", entity="other"))).status == "ok"
        await door(scheduler).delete(Owner(tenant="t", entity="bot"), ends[0].session)
        assert (await result(scheduler, job("hi", session="", entity="bot"))).status == "ok"
