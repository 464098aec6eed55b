"""A sandbox that serves one session: what stays warm in it, what each job has anew, and what ends it. At every level."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from msgspec import structs

from fake_executor import wait_until
from kept_sandbox import KeptSandbox
from memory_workspace import LIMITS
from runnerd import Language, SandboxLost
from runnerd.errors import NotBegun
from runnerd.executors.local import LocalExecutor

UNTIMED = "import os, time\nend = time.monotonic() + 30\nwhile time.monotonic() < end: pass"


@pytest.fixture
async def kept(at_level: LocalExecutor, languages: dict[str, Language]) -> AsyncIterator[KeptSandbox]:
    async with at_level.sandbox(languages["py"]) as sandbox:
        yield KeptSandbox(sandbox, languages["py"])


class TestStays:
    async def test_the_interpreter_goes_on_with_what_no_snapshot_could_hold(self, kept: KeptSandbox) -> None:
        first = await kept.result(
            "import os, threading\nx, lock, me = 1, threading.Lock(), os.getpid()\ngen = (n for n in range(9))\nnext(gen)"
        )
        assert (first.status, kept.sandbox.kept, kept.asleep) == ("ok", True, True)
        assert first.sandbox is not None
        assert (first.sandbox.reuse, first.sandbox.served) == ("session", 0)
        assert first.state is not None
        assert [item.name for item in first.state.skipped] == ["lock", "gen"]
        second = await kept.result("x += 1\nprint(x, next(gen), lock.locked(), me == os.getpid())")
        assert second.stdout == "2 1 False True\n"
        assert second.sandbox is not None
        assert second.sandbox.served == 1
        assert second.state is not None
        assert second.state.restored
        assert kept.snapshot is not None, "the snapshot is its backup"

    async def test_files_are_those_of_the_session_and_are_not_sent_again(self, kept: KeptSandbox) -> None:
        code = "import os\nos.makedirs('d')\nopen('d/a', 'w').write('one')\nopen('b', 'w').write('b')\nopen('gone', 'w').close()"
        assert [stored.name for stored in (await kept.result(code)).stored] == ["b", "gone", "d/a"]
        first = dict(kept.files)
        assert await kept.printed("print(open('d/a').read(), sorted(os.listdir()))") == "one ['b', 'd', 'gone', 'main.py']\n"
        assert kept.files == first, "what was not changed is no new version"
        second = await kept.result("open('d/a', 'a').write('!')\nos.remove('gone')")
        assert [stored.name for stored in second.stored] == ["d/a"]
        assert await kept.printed("print(open('d/a').read(), os.path.exists('gone'))") == "one! True\n", "the session has it still"

    async def test_a_version_from_elsewhere_takes_the_place_of_the_one_that_is_there(self, kept: KeptSandbox) -> None:
        await kept.result("open('a', 'w').write('mine')\nopen('b', 'w').write('mine')")
        kept.files["a"] = ("other", b"theirs")
        del kept.files["b"]
        assert await kept.printed("import os; print(open('a').read(), os.path.exists('b'))") == "theirs False\n"

    async def test_what_a_job_brings_itself_goes_with_it(self, kept: KeptSandbox) -> None:
        assert await kept.printed("import lib\nprint(lib.n)", files={"lib.py": b"n = 1", "pkg/deep/x": b""}) == "1\n"
        assert await kept.printed("import lib\nprint(lib.n)", files={"lib.py": b"n = 2"}) == "2\n"
        gone = await kept.result("import os\nprint(os.listdir())\nimport lib")
        assert gone.stdout == "['main.py']\n"
        assert gone.stderr.endswith("ModuleNotFoundError: No module named 'lib'\n")

    async def test_what_is_no_file_of_the_session_stays_too_and_is_named_again(self, kept: KeptSandbox) -> None:
        code = "import os\nos.symlink('/etc/passwd', 'link')\nos.mkdir('empty')\nopen('big', 'wb').write(bytes(900))"
        small = structs.replace(LIMITS, files=1)
        first = await kept.result(code + "\nopen('a', 'w').close()", limits=small)
        assert ({item.name for item in first.skipped}, [one.name for one in first.stored]) == ({"link", "big"}, ["a"])
        second = await kept.result("print(os.listdir('empty'), os.path.getsize('big'))", limits=small)
        assert second.stdout == "[] 900\n"
        assert ({item.name for item in second.skipped}, [one.name for one in second.stored]) == ({"link"}, ["big"])

    async def test_other_languages_keep_their_files(self, at_level: LocalExecutor, languages: dict[str, Language]) -> None:
        async with at_level.sandbox(languages["bash"]) as sandbox:
            kept = KeptSandbox(sandbox, languages["bash"])
            await kept.result("echo one > a; mkdir dir; sleep 30 & echo $$ > pid")
            assert sandbox.kept
            assert not kept.asleep
            assert await kept.printed("cat a; ls; echo two >> a") == "one\na\ndir\nmain.sh\npid\n"
            assert kept.files["a"][1] == b"one\ntwo\n"
            assert await kept.printed("cat a") == "one\ntwo\n"

    async def test_without_variables_files_stay_and_the_interpreter_does_not(
        self, at_level: LocalExecutor, languages: dict[str, Language]
    ) -> None:
        async with at_level.sandbox(languages["py"]) as sandbox:
            kept = KeptSandbox(sandbox, languages["py"], state_bytes=0)
            assert await kept.printed("x = 1\nopen('a', 'w').close()") == ""
            assert await kept.printed("import os\nprint(sorted(os.listdir()), 'x' in globals())") == "['a', 'main.py'] False\n"


class TestAnew:
    async def test_input_arguments_environment_and_directory(self, kept: KeptSandbox) -> None:
        code = "import os, sys\nenv = [os.environ.get(name) for name in 'AB']\n"
        code += "print(sys.stdin.readline(), sys.argv[1:], *env, os.path.basename(__file__))"
        first = await kept.printed(code + "\nos.chdir('/')", stdin="1\n2\n", args=("x",), env={"A": "a"})
        assert first == "1\n ['x'] a None main.py\n"
        assert await kept.printed(code, stdin="3\n", env={"B": "b"}) == "3\n [] None b main.py\n"
        assert await kept.printed(code) == " [] None None main.py\n"

    async def test_output_and_its_limit(self, kept: KeptSandbox) -> None:
        for _ in range(2):
            assert len(await kept.printed("import io, sys\nprint('x' * 70_000)\nsys.stdout = io.StringIO()")) == LIMITS.output_bytes

    async def test_wall_time_counts_from_the_start_of_each(self, kept: KeptSandbox) -> None:
        short = structs.replace(LIMITS, wall_s=4)
        for _ in range(3):
            assert (await kept.result("import time\ntime.sleep(1.4)", limits=short)).status == "ok"
        late = await kept.result(UNTIMED, limits=short)
        assert (late.status, late.limit, kept.sandbox.kept) == ("timeout", "wall_s", False)

    async def test_cpu_time_counts_from_the_start_of_each(self, kept: KeptSandbox) -> None:
        burn = "import time\nend = time.process_time() + {}\nwhile time.process_time() < end: pass"
        short = structs.replace(LIMITS, cpu_s=1)
        for _ in range(3):
            assert (await kept.result(burn.format(0.7), limits=short)).status == "ok"
        spent = await kept.result(burn.format(9), limits=short)
        assert (spent.status, spent.limit, kept.sandbox.kept) == ("limit", "cpu_s", False)
        assert spent.usage.cpu_ms < 4000, "what the others used is not counted"

    async def test_memory_is_what_all_of_it_takes_now(self, kept: KeptSandbox) -> None:
        assert await kept.printed("x = bytearray(80 << 20)\nprint(len(x))") == f"{80 << 20}\n"
        assert await kept.printed("y = bytearray(80 << 20); del y\nprint(len(x))") == f"{80 << 20}\n"
        full = await kept.result("y = bytearray(240 << 20)\nfor i in range(0, len(y), 4096): y[i] = 1\nimport time\ntime.sleep(5)")
        assert (full.status, kept.sandbox.kept) == ("oom", False)

    async def test_a_timer_that_was_set_is_not_left(self, kept: KeptSandbox) -> None:
        await kept.result("import signal\nsignal.setitimer(signal.ITIMER_REAL, 900)")
        assert kept.asleep
        assert await kept.printed("print(signal.getitimer(signal.ITIMER_REAL))") == "(0.0, 0.0)\n"

    async def test_a_traceback_shows_the_program_of_this_job(self, kept: KeptSandbox) -> None:
        await kept.result("def one(): return 1")
        assert "    raise ValueError(22)\n" in (await kept.result("# two\nraise ValueError(22)")).stderr


class TestEnds:
    @pytest.mark.parametrize("code", ["1 / 0", "import sys; sys.exit(3)", "import os; os._exit(0)", "import os; os.kill(os.getpid(), 9)"])
    async def test_whatever_does_not_end_well_ends_the_sandbox_or_at_least_its_interpreter(self, kept: KeptSandbox, code: str) -> None:
        await kept.result("x = 1")
        result = await kept.result(code)
        assert kept.sandbox.kept == (result.status == "ok")
        assert not kept.asleep

    async def test_what_a_job_leaves_running_is_ended_and_the_snapshot_has_the_variables(self, kept: KeptSandbox) -> None:
        fork = "if os.fork() == 0:\n    os.setsid()\n    time.sleep(2)\n    open('late', 'w').close()\n    os._exit(0)\n"
        code = f"import os, time\nx = 41\n{fork}x += 1"
        assert (await kept.result(code)).status == "ok"
        assert (kept.sandbox.kept, kept.asleep) == (True, False)
        assert await kept.printed("import time\nprint(x)\ntime.sleep(2.5)\nimport os; print(os.path.exists('late'))") == "42\nFalse\n"

    async def test_a_thread_that_goes_on_ends_the_interpreter(self, kept: KeptSandbox) -> None:
        code = "import threading, time\nx = 1\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
        assert (await kept.result(code)).status == "ok"
        assert (kept.sandbox.kept, kept.asleep) == (True, False)
        assert await kept.printed("print(x, threading.active_count())") == "1 1\n"

    async def test_threads_are_waited_for(self, kept: KeptSandbox) -> None:
        code = "import threading, time\ndef work():\n    time.sleep(0.2)\n    print('worked')\nthreading.Thread(target=work).start()"
        assert await kept.printed(code) == "worked\n"
        assert kept.asleep
        pool = "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor() as pool:\n    print(sum(pool.map(int, '123')))"
        assert [await kept.printed(pool), await kept.printed(pool)] == ["6\n", "6\n"]
        assert kept.asleep

    async def test_between_two_jobs_nothing_of_it_runs(self, kept: KeptSandbox) -> None:
        code = "import signal, time\nticks = []\nsignal.signal(signal.SIGALRM, lambda *_: ticks.append(time.monotonic()))\n"
        await kept.result(code + "signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)")
        assert kept.asleep
        began = time.monotonic()
        await asyncio.sleep(0.5)
        ended = time.monotonic()
        assert await kept.printed(f"print([tick for tick in ticks if {began} < tick < {ended}])") == "[]\n"

    async def test_a_job_that_replaces_what_its_interpreter_needs_costs_only_the_sandbox(self, kept: KeptSandbox) -> None:
        await kept.result(
            "import os, sys\nfor name in ('open', 'write', 'read', 'unlink', 'utime', 'close', 'chdir'): setattr(os, name, None)"
        )
        try:
            assert await kept.printed("print('on')") == "on\n"
        except NotBegun:
            assert not kept.sandbox.kept

    @pytest.mark.parametrize("fd", [3, 0])
    async def test_one_that_closes_its_descriptors_loses_the_sandbox_before_the_next_begins(self, kept: KeptSandbox, fd: int) -> None:
        result = await kept.result(f"import os\nos.close({fd})")
        if result.status == "ok" and kept.sandbox.kept:
            try:
                assert await kept.printed("print('on')") == "on\n"
            except NotBegun:
                assert not kept.sandbox.kept


class TestKilled:
    async def test_the_interpreter_is_killed_between_two_jobs(self, at_level: LocalExecutor, languages: dict[str, Language]) -> None:
        async with at_level.sandbox(languages["py"]) as sandbox:
            kept = KeptSandbox(sandbox, languages["py"])
            await kept.result("x = 1")
            (pid,) = stopped(at_level)
            lost = asyncio.create_task(sandbox.lost())
            os.kill(pid, signal.SIGKILL)
            assert await lost == "its interpreter ended while it waited for the next job"

    async def test_the_whole_cell_is_killed_between_two_jobs(self, at_level: LocalExecutor, languages: dict[str, Language]) -> None:
        async with at_level.sandbox(languages["py"]) as sandbox:
            kept = KeptSandbox(sandbox, languages["py"])
            await kept.result("x = 1")
            (pid,) = stopped(at_level)
            os.kill(parent(pid), signal.SIGKILL)
            with pytest.raises(SandboxLost):
                await kept.result("x = 2")

    async def test_nothing_is_left_when_the_sandbox_is_given_up(self, at_level: LocalExecutor, languages: dict[str, Language]) -> None:
        py = languages["py"]
        async with at_level.sandbox(py) as sandbox:
            kept = KeptSandbox(sandbox, py)
            await kept.result("secret = 'x' * 99\nopen('/mnt/data/s' if __file__.startswith('/mnt') else 's', 'w').write('secret')")
            assert kept.asleep
            (pid,) = stopped(at_level)
        await wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "its interpreter is gone")
        async with at_level.sandbox(py) as sandbox:
            other = KeptSandbox(sandbox, py)
            look = "import os, tempfile\nprint(os.listdir(), os.listdir(tempfile.gettempdir()), 'secret' in globals())"
            assert await other.printed(look) == "['main.py'] [] False\n"


def stopped(executor: LocalExecutor) -> list[int]:
    """Processes below the agent that are stopped."""
    found, states = [executor.agent_pid or 0], {}
    for pid in found:
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/children") as file:
                    found += map(int, file.read().split())
            with open(f"/proc/{pid}/stat") as file:
                states[pid] = file.read().rpartition(")")[2].split()[0]
    return [pid for pid, state in states.items() if state == "T"]


def parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])
