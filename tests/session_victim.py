"""Kills daemons with SIGKILL at every step of a job in a session, and sees what the next daemon on the same store makes of it.

A program of its own, as it forks: `python session_victim.py DIRECTORY MODE` prints a line of JSON per step. The mode says
whether the job has a record, and what comes next: the job again (`owned`), another one first (`late`), only that (`unowned`).
"""

import asyncio
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import structlog

from fake_executor import FakeExecutor
from runnerd import Job, Owner
from runnerd.scheduler import Scheduler
from runnerd.workspace import SessionSettings, StateSettings, WorkspaceSettings
from scheduling import result, scheduling
from stores import store

HOT_BYTES, INLINE_BYTES = int(os.environ.get("HOT_BYTES", "1000")), int(os.environ.get("INLINE_BYTES", "0"))
SETTINGS = WorkspaceSettings(sessions=SessionSettings(orphan_s=0.001), state=StateSettings(hot_bytes=HOT_BYTES, inline_bytes=INLINE_BYTES))
LEASE_S = 0.3
AT_ONCE = 8


class Mortal:
    """A store of a process that dies at a call: before it, or after it was done."""

    count = 0
    dies_at = 0
    before = False

    def __init__(self, it: Any) -> None:
        self._it = it
        self.value_bytes = getattr(it, "value_bytes", 0)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._it, name)
        if name == "get" and not asyncio.iscoroutinefunction(method):
            return method

        async def act(*args: Any) -> Any:
            if args and str(args[0]).startswith(("daemons/", "sweep/")):
                return await method(*args)
            Mortal.count += 1
            dies = Mortal.count == Mortal.dies_at
            if dies and Mortal.before:
                os.kill(os.getpid(), signal.SIGKILL)
            answer = await method(*args)
            if dies:
                os.kill(os.getpid(), signal.SIGKILL)
            return answer

        return act


@asynccontextmanager
async def daemon(directory: Path) -> AsyncIterator[tuple[Scheduler, Any]]:
    async with AsyncExitStack() as stack:
        disk = store("disk", path=str(directory))
        kv = Mortal(await stack.enter_async_context(disk.open_kv()))
        blobs: Any = Mortal(await stack.enter_async_context(disk.open_blobs()))
        running = scheduling(FakeExecutor(), kv, blobs=blobs, workspaces=SETTINGS, lease_s=LEASE_S)  # type: ignore[arg-type]
        yield await stack.enter_async_context(running), blobs


def the_job(session: str, job_id: str) -> Job:
    return Job(id=job_id, tenant="t", lang="py", code="add 1; write a.txt new; write b.txt x", session=session)


async def begin(directory: Path) -> str:
    async with daemon(directory) as (scheduler, _):
        first = await result(scheduler, Job(id="first", tenant="t", lang="py", code="add 1; write a.txt old", session=""))
        return first.session


async def run(directory: Path, session: str, owned: bool) -> dict[str, Any]:
    async with daemon(directory) as (scheduler, _):
        Mortal.count = 0
        end = await result(scheduler, the_job(session, "mine"), owned)
        return {"calls": Mortal.count, "status": end.status}


async def see(directory: Path, session: str, mode: str) -> dict[str, Any]:
    """What the next daemon makes of it: the job comes again where it would, another one before or after it, then all is swept."""
    other = Job(id="next", tenant="t", lang="py", code="add 1; ls", session=session)
    async with daemon(directory) as (scheduler, blobs):
        first = await result(scheduler, other, True) if mode == "late" else None
        again = None if mode == "unowned" else await result(scheduler, the_job(session, "mine"), True)
        next_ = first or await result(scheduler, other, True)
        assert scheduler.sessions is not None
        seen = await scheduler.sessions.find(Owner(tenant="t"), session)
        every = [*seen.files, *seen.older]
        for file in every:
            _, chunks = await scheduler.sessions.download(Owner(tenant="t"), session, file.id)
            assert len(b"".join([chunk async for chunk in chunks])) == file.size
        assert again is None or {file.id for file in again.stored} <= {file.id for file in every}, "a result names what is not there"
        assert seen.job == ""
        time.sleep(0.01)
        await scheduler._workspaces.sweeper.clean()  # type: ignore[union-attr]
        assert len(await blobs.list("files/")) == len(every), "files that no session names"
        assert len(await blobs.list("states/")) == (1 if SETTINGS.state.hot_bytes == 0 else 0), "snapshots that no session names"
        return {
            "again": None if again is None else [again.status, again.stdout.strip(), sorted(file.name for file in again.stored)],
            "next": [next_.status, *next_.stdout.splitlines()],
            "files": [file.name for file in seen.files],
            "older": [file.name for file in seen.older],
        }


def fork(act: Any, *args: Any) -> tuple[int, int]:
    """A process of its own that does something; its number, and where its answer can be read."""
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(reader)
        try:
            answer = asyncio.run(act(*args))
        except BaseException as error:  # noqa: BLE001 - the parent tells it
            answer = f"{type(error).__name__}: {error}"
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    return pid, reader


def joined(process: tuple[int, int]) -> Any:
    """What a process answered, or the number of the signal that it died of."""
    pid, reader = process
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else json.loads(text)


def main(directory: Path, mode: str) -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    base, owned = directory / "base", mode != "unowned"
    session = joined(fork(begin, base))
    shutil.copytree(base, directory / "counted")
    calls = joined(fork(run, directory / "counted", session, owned))["calls"]
    steps = [(number, before) for number in range(1, calls + 1) for before in (True, False)]
    deaths = []
    for Mortal.dies_at, Mortal.before in steps:
        shutil.copytree(base, place := directory / f"{Mortal.dies_at}-{Mortal.before}")
        deaths.append(joined(fork(run, place, session, owned)))
    Mortal.dies_at = 0
    time.sleep(LEASE_S)
    for start in range(0, len(steps), AT_ONCE):
        some = steps[start : start + AT_ONCE]
        processes = [fork(see, directory / f"{number}-{before}", session, mode) for number, before in some]
        for step, died, process in zip(some, deaths[start:], processes, strict=False):
            print(json.dumps({"step": step, "died": died, "seen": joined(process)}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
