"""Sandboxes that the daemon keeps for sessions: who gets them, when they end, and that nothing is lost with them."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec import structs

from conftest import ExecutorAt
from fake_executor import wait_until
from runnerd import Blobs, File, Job, KeyValues, Language, Limits, Owner, Result, new_id
from runnerd.executors.local import LocalExecutor
from runnerd.pool import PoolSettings
from runnerd.scheduler import Scheduler, SchedulerSettings, open_scheduler
from test_reuse import stopped

OPTED_IN = PoolSettings(kept=2)
Run = Callable[..., Awaitable[Result]]


@pytest.fixture(params=["strong", "userns"])
async def at_level(request: pytest.FixtureRequest, executor_at: ExecutorAt) -> LocalExecutor:
    return await executor_at(request.param)


class Daemon:
    """A scheduler that runs Python and Bash, and what tests ask of it."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler

    async def run(self, code: str, session: str | None = "", *, owned: bool = False, **fields: Any) -> Result:
        job = Job(**({"id": new_id(), "tenant": "t", "lang": "py", "code": code, "session": session} | fields))
        *_, end = [event async for event in self.scheduler.submit(job, owned=owned)]
        assert isinstance(end, Result)
        assert end.sandbox is None or end.sandbox.reuse == ("job" if session is None else "session")
        return end

    def pool(self, lang: str = "py") -> dict[str, Any]:
        pool: dict[str, Any] = self.scheduler.health()["pools"][lang]
        return pool

    async def kept(self, count: int) -> None:
        await wait_until(lambda: self.pool()["kept"] == count, f"{count} are kept")


@pytest.fixture
def daemon(at_level: LocalExecutor, languages: dict[str, Language], kv: KeyValues, blobs: Blobs) -> Any:
    @asynccontextmanager
    async def opened(reuse: str = "session", pool: PoolSettings = OPTED_IN, **settings: Any) -> AsyncGenerator[Daemon]:
        known = {code: structs.replace(languages[code], reuse=reuse, warm=1) for code in ("py", "bash")}
        scheduling = SchedulerSettings(**({"slots": 2} | settings))
        async with open_scheduler(at_level, known, kv, None, scheduling, pool, blobs) as scheduler:
            yield Daemon(scheduler)

    return opened


def served(result: Result) -> int:
    assert result.status == "ok", result
    assert result.sandbox is not None
    return result.sandbox.served


async def test_by_default_every_job_has_a_sandbox_of_its_own(daemon: Any) -> None:
    assert Language(code="x", name="", filename="x", run=("x",), image="", version=("x",), hello="").reuse == "job"
    async with daemon("job") as here:
        first = [event async for event in here.scheduler.submit(Job(id="1", tenant="t", lang="py", code="x = 1", session=""))][-1]
        second = [event async for event in here.scheduler.submit(Job(id="2", tenant="t", lang="py", code="x", session=first.session))][-1]
        assert (second.status, second.sandbox.reuse, second.sandbox.served, here.pool()["kept"]) == ("ok", "job", 0, 0)


@pytest.mark.parametrize("owned", [True, False])
async def test_a_session_finds_its_sandbox_again(daemon: Any, owned: bool) -> None:
    async with daemon() as here:
        first = await here.run("import threading\nx, lock = 1, threading.Lock()\nopen('a', 'w').write('a')", owned=owned)
        assert served(first) == 0
        await here.kept(1)
        second = await here.run("x += 1; lock.acquire(); print(x, open('a').read())", first.session, owned=owned)
        assert (served(second), second.stdout, second.state and second.state.restored) == (1, "2 a\n", True)
        third = await here.run("print(x, lock.locked())", first.session, owned=owned)
        assert (served(third), third.stdout) == (2, "2 True\n")


async def test_nobody_else_gets_it(daemon: Any) -> None:
    async with daemon(pool=structs.replace(OPTED_IN, kept=9)) as here:
        mine = await here.run("secret = 1\nopen('/tmp/s', 'w').write('secret')\nopen('s', 'w').write('secret')")
        look = "import os; print('secret' in globals(), os.listdir(), os.listdir('/tmp'))"
        for other in (
            await here.run(look),
            await here.run(look, None),
            await here.run(look, mine.session, tenant="else"),
            await here.run(look, "x" * 21),
        ):
            assert (served(other), other.stdout) == (0, "False ['main.py'] []\n")
        assert served(await here.run("secret", mine.session)) == 1


async def test_a_job_that_does_not_end_well_ends_it_and_the_next_has_the_state_before(daemon: Any) -> None:
    async with daemon() as here:
        session = (await here.run("x = 1")).session
        assert (await here.run("x = 99\n1 / 0", session)).status == "failed"
        assert here.pool()["kept"] == 0
        after = await here.run("print(x)", session)
        assert (served(after), after.stdout) == (0, "1\n")
        late = await here.run("x = 98\nwhile True: pass", session, limits=Limits(wall_s=0.5))
        assert late.status == "timeout"
        assert (await here.run("print(x)", session)).stdout == "1\n"


async def test_killed_between_two_jobs_costs_nothing_but_the_sandbox(daemon: Any, at_level: LocalExecutor) -> None:
    async with daemon() as here:
        session = (await here.run("x = 1\nopen('a', 'w').write('a')")).session
        for n in range(2, 5):
            await here.kept(1)
            for pid in stopped(at_level):
                os.kill(pid, signal.SIGKILL)
            if n % 2:
                await here.kept(0)
            end = await here.run("x += 1; print(x, open('a').read())", session, retry=False)
            assert (served(end), end.stdout) == (0, f"{n} a\n")


async def test_a_session_that_moved_elsewhere_meanwhile_is_not_taken_for_what_it_was(daemon: Any) -> None:
    async with daemon() as here, daemon() as there:
        session = (await here.run("x = 1\nopen('a', 'w').write('here')")).session
        second = await there.run("x += 1; print(x, open('a').read()); open('a', 'w').write('there')", session)
        assert (served(second), second.stdout) == (0, "2 here\n")
        third = await here.run("x += 1; print(x, open('a').read())", session)
        assert (served(third), third.stdout) == (0, "3 there\n")
        assert served(await here.run("print(x)", session)) == 1
        fourth = await there.run("print(x)", session)
        assert (served(fourth), fourth.stdout) == (0, "3\n")


async def test_a_change_by_the_api_is_seen(daemon: Any) -> None:
    async def text() -> AsyncIterator[bytes]:
        yield b"uploaded"

    async with daemon() as here:
        session = (await here.run("x = 1\nopen('a', 'w').write('a')")).session
        await here.scheduler.sessions.upload(Owner(tenant="t"), session, "a", text())
        end = await here.run("print(x, open('a').read())", session)
        assert (served(end), end.stdout) == (0, "1 uploaded\n")
        await here.scheduler.sessions.forget(Owner(tenant="t"), session)
        assert (await here.run("print('x' in globals())", session)).stdout == "False\n"
        await here.scheduler.sessions.delete(Owner(tenant="t"), session)
        gone = await here.run("import os; print(os.listdir())", session)
        assert (served(gone), gone.stdout, gone.session != session) == (0, "['main.py']\n", True)


async def test_another_language_of_the_session_moves_it_as_well(daemon: Any) -> None:
    async with daemon() as here:
        session = (await here.run("open('a', 'w').write('py\\n')")).session
        assert served(await here.run("cat a; echo bash >> a", session, lang="bash")) == 0
        back = await here.run("print(open('a').read())", session)
        assert (served(back), back.stdout) == (0, "py\nbash\n\n")


async def test_other_limits_and_jobs_without_state_get_another_sandbox(daemon: Any) -> None:
    async with daemon() as here:
        session = (await here.run("x = 1")).session
        assert served(await here.run("x", session, limits=Limits(wall_s=3))) == 1
        assert served(await here.run("x", session, limits=Limits(memory_bytes=200 << 20))) == 0
        clean = await here.run("print('x' in globals())", session, state=False)
        assert (served(clean), clean.stdout) == (0, "False\n")
        assert served(await here.run("x", session)) == 0


async def test_so_many_are_kept_and_the_one_used_longest_ago_goes_first(daemon: Any) -> None:
    async with daemon() as here:
        one, two = [(await here.run("x = 1")).session for _ in range(2)]
        assert served(await here.run("x", one)) == 1
        three = (await here.run("x = 1")).session
        await here.kept(2)
        assert [served(await here.run("x", session)) for session in (one, three)] == [2, 1]
        assert served(await here.run("x", two)) == 0


async def test_those_that_are_idle_make_room_for_whoever_waits(daemon: Any) -> None:
    async with daemon(pool=structs.replace(OPTED_IN, alive=2, kept=5), slots=2) as here:
        sessions = [(await here.run("x = 1")).session for _ in range(4)]
        for session in sessions:
            assert (await here.run("print(x)", session)).stdout == "1\n"
        assert here.pool()["kept"] <= 2


async def test_one_that_is_idle_for_long_ends(daemon: Any) -> None:
    async with daemon(pool=structs.replace(OPTED_IN, kept_idle_s=0.2)) as here:
        session = (await here.run("x = 1")).session
        await here.kept(0)
        end = await here.run("print(x)", session)
        assert (served(end), end.stdout) == (0, "1\n")


async def test_jobs_at_once_in_one_session_have_it_one_after_the_other(daemon: Any) -> None:
    async with daemon() as here:
        session = (await here.run("n = 0")).session
        ends = await asyncio.gather(*(here.run("n += 1; print(n)", session) for _ in range(8)))
        assert [end.stdout for end in ends] == [f"{n}\n" for n in range(1, 9)]
        assert served(ends[-1]) > 0


async def test_an_agent_that_is_killed_takes_all_of_them_along_and_nothing_of_a_session(daemon: Any, at_level: LocalExecutor) -> None:
    async with daemon() as here:
        session = (await here.run("x = 1")).session
        before = at_level.agent_pid
        assert before is not None
        os.kill(before, signal.SIGKILL)
        await wait_until(lambda: at_level.agent_pid not in (None, before), "another agent runs")
        end = await here.run("x += 1; print(x)", session)
        assert (served(end), end.stdout) == (0, "2\n")


async def test_files_that_a_job_mounts_or_brings_are_not_left_to_the_next(daemon: Any) -> None:
    async with daemon() as here:
        session = (await here.run("x = 1")).session
        brought = (File(name="main.py", text="print(open('in').read())"), File(name="in", text="mine"))
        assert (await here.run(None, session, files=brought, entry="main.py")).stdout == "mine\n"  # type: ignore[arg-type]
        assert (await here.run("import os; print(os.listdir())", session)).stdout == "['main.py']\n"
