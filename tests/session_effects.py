"""What each variable of sessions, files and state does, as one who uses them sees it: value, look, what is seen without and with it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

from fake_executor import FakeExecutor
from runnerd import Job, OverLimit, Owner, Result, Sessions
from runnerd.workspace import WorkspaceSettings
from runnerd.workspace.heads import STATES
from runnerd.workspace.sweeper import Sweeper

Look = Callable[[Any], Awaitable[object]]
OWNER = Owner(tenant="default", entity="bot")
HOUR_S = 3600
DAY_S = 24 * HOUR_S


class Fake(FakeExecutor):
    level = "strong"


@asynccontextmanager
async def door(world: Any, **environ: object) -> AsyncIterator[tuple[Any, Sessions]]:
    """A daemon with the variable and `environ`, and its sessions."""
    world.environ.update({name: str(value) for name, value in environ.items() if name not in world.environ})
    async with world.daemon(Fake(), "ingress.http.enabled=no", "pool.enabled=no") as daemon:
        yield daemon, daemon.sessions


async def zeros(size: int) -> AsyncIterator[bytes]:
    for _ in range(size >> 16):
        yield bytes(1 << 16)


async def ran(daemon: Any, code: str, **fields: Any) -> Result:
    events = [event async for event in daemon.submit(Job(lang="py", code=code, **fields))]
    assert isinstance(events[-1], Result)
    return events[-1]


async def megabytes_in_a_session(world: Any) -> object:
    async with door(world) as (_, sessions):
        session = (await sessions.create(OWNER)).id
        try:
            for number in range(60):
                await sessions.upload(OWNER, session, f"{number}.bin", zeros(2 << 20))
        except OverLimit:
            return number * 2
        return None


async def files_in_a_session(world: Any) -> object:
    async with door(world) as (_, sessions):
        session = (await sessions.create(OWNER)).id
        try:
            for number in range(100):
                await sessions.upload(OWNER, session, f"{number}.bin", zeros(0))
        except OverLimit:
            return number
        return None


async def sessions_of_an_entity(world: Any) -> object:
    async with door(world) as (_, sessions):
        made = []
        try:
            for _ in range(200):
                made.append(await sessions.create(OWNER))  # noqa: PERF401 - it ends with an error
        except OverLimit:
            return len(made)
        return None


async def hours(world: Any) -> object:
    async with door(world) as (_, sessions):
        session = await sessions.create(OWNER)
        return round((session.expires - session.used) / HOUR_S)


async def id_length(world: Any) -> object:
    async with door(world) as (_, sessions):
        return len((await sessions.create(OWNER)).id)


def pause(name: str) -> Look:
    """How long the sweeper waits between two turns."""

    async def look(world: Any) -> object:
        settings = world.settings()
        every: dict[str, float] = {}

        class Noting(Sweeper):
            async def _every(self, pause_s: float, name: str, act: object) -> None:
                every[name] = pause_s

        workspaces = WorkspaceSettings(sessions=settings.sessions, files=settings.files, state=settings.state)
        visits: Any = SimpleNamespace(heads=None, contents=None, settings=workspaces)
        for loop in Noting(visits, None, None).loops():  # type: ignore[arg-type]
            await loop
        return every[name]

    return look


def counted(*programs: str) -> Look:
    """What the last of some programs, one after the other in a session, prints."""

    async def look(world: Any) -> object:
        async with door(world) as (daemon, _):
            session = ""
            for program in programs:
                result = await ran(daemon, program, session=session)
                session = result.session
            return result.stdout.strip()

    return look


async def megabytes_of_state(world: Any) -> object:
    async with door(world) as (_, sessions):
        session = (await sessions.create(OWNER)).id
        for size in (2, 51):
            try:
                await sessions.save(OWNER, session, zeros(size << 20))
            except OverLimit:
                return f"less than {size}"
        return None


def snapshot_lives(unit_s: float, *, archived: bool = False, **environ: object) -> Look:
    """How long a snapshot is kept after its last use."""

    async def look(world: Any) -> object:
        async with door(world, **environ) as (daemon, sessions):
            session = (await ran(daemon, "add 1", session="")).session
            owner = Owner(tenant="default")
            while True:
                seen = await sessions.find(owner, session)
                assert seen.snapshot is not None
                if seen.snapshot.archived >= archived:
                    return round((seen.snapshot.expires - seen.used) / unit_s)
                await asyncio.sleep(0.01)

    return look


async def after_its_time(world: Any) -> object:
    """What becomes of a snapshot that nobody uses."""
    async with door(world, STATE_TTL_SECONDS=0.2, STATE_ARCHIVE_CHECK_INTERVAL_SECONDS=0.05) as (daemon, _):
        await ran(daemon, "add 1", session="")
        workspaces = daemon._scheduler._workspaces
        while not (moved := {name for name, count in workspaces.sweeper.counts.items() if count}):
            await asyncio.sleep(0.01)
        return moved


async def archived_after(world: Any) -> object:
    """When a new snapshot is to be archived, in seconds from then."""
    async with door(world) as (daemon, sessions):
        session = (await ran(daemon, "add 1", session="")).session
        seen = await sessions.find(Owner(tenant="default"), session)
        ((_, when),) = await daemon._scheduler._records.kv.ranked(STATES)
        return round((when - seen.used) / 10) * 10


SOON = {"STATE_ARCHIVE_AFTER_SECONDS": 0.1, "STATE_ARCHIVE_CHECK_INTERVAL_SECONDS": 0.05}
ROWS: dict[str, tuple[str, Look, object, object]] = {
    "MAX_TOTAL_FILE_SIZE_MB": ("5", megabytes_in_a_session, 50, 4),
    "MAX_FILES_PER_SESSION": ("3", files_in_a_session, 50, 3),
    "MAX_SESSIONS_PER_ENTITY": ("3", sessions_of_an_entity, 100, 3),
    "SESSION_TTL_HOURS": ("2", hours, 24, 2),
    "SESSION_CLEANUP_INTERVAL_MINUTES": ("2", pause("sessions"), 600.0, 120.0),
    "SESSION_ID_LENGTH": ("32", id_length, 21, 32),
    "STATE_PERSISTENCE_ENABLED": ("false", counted("add 1", "add 1"), "2", "1"),
    "STATE_TTL_SECONDS": ("600", snapshot_lives(60, STATE_ARCHIVE_ENABLED="false"), 120, 10),
    "STATE_MAX_SIZE_MB": ("1", megabytes_of_state, "less than 51", "less than 2"),
    "STATE_CAPTURE_ON_ERROR": ("true", counted("add 1; fail 1", "add 1"), "1", "2"),
    "STATE_ARCHIVE_ENABLED": ("false", after_its_time, {"states_archived"}, {"states_expired"}),
    "STATE_ARCHIVE_AFTER_SECONDS": ("60", archived_after, 3600, 60),
    "STATE_ARCHIVE_TTL_DAYS": ("2", snapshot_lives(DAY_S, archived=True, **SOON), 7, 2),
    "STATE_ARCHIVE_CHECK_INTERVAL_SECONDS": ("7", pause("states"), 300.0, 7.0),
}
