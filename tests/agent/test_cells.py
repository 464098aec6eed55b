"""What a zygote forked for every job could give away or take along, and that it does not."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from conftest import ExecutorAt
from runnerd import File, Job, Language, Limits, Output, Result
from runnerd.agent.loop import Loop
from runnerd.agent.orders import ENDED
from runnerd.agent.slot import Slot
from runnerd.executors.local import LocalExecutor, LocalSettings, open_local

LIMITS = Limits(
    wall_s=10, cpu_s=10, memory_bytes=512 << 20, processes=64, open_files=256, output_bytes=1 << 16, file_bytes=1 << 20, files=4
)


@pytest.fixture(params=["strong", "userns", "landlock"])
async def isolated(request: pytest.FixtureRequest, executor_at: ExecutorAt) -> LocalExecutor:
    return await executor_at(request.param)


async def run(
    executor: LocalExecutor, language: Language, code: str, tenant: str = "t", limits: Limits = LIMITS, **fields: object
) -> Result:
    job = Job(id="job", tenant=tenant, lang=language.code, code=code, **fields)  # type: ignore[arg-type]
    async with executor.sandbox(language) as sandbox:
        result = [event async for event in sandbox.run(job, language, limits)][-1]
    assert isinstance(result, Result)
    return result


async def printed(executor: LocalExecutor, language: Language, code: str, **fields: object) -> str:
    result = await run(executor, language, code, **fields)  # type: ignore[arg-type]
    assert result.status == "ok", result
    return result.stdout.strip()


async def test_random_numbers_differ_from_job_to_job(isolated: LocalExecutor, py: Language) -> None:
    code = "import random, os, uuid, secrets\nprint(random.random(), os.urandom(4).hex(), uuid.uuid4(), secrets.token_hex(4))"
    seen = {word for _ in range(6) for word in (await printed(isolated, py, code)).split()}
    assert len(seen) == 24


async def test_a_job_finds_its_pages_copied(isolated: LocalExecutor, py: Language) -> None:
    """What most jobs write to is theirs before they come: else each of these pages is a fault on the way of the job."""
    code = "import resource\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)"
    job = Job(id="job", tenant="t", lang="py", code=code)
    async with isolated.sandbox(py) as sandbox:  # its child stands ready
        standing = [faults(pid) for cell in cells_of(isolated) for pid in children(cell)]
        result = [event async for event in sandbox.run(job, py, LIMITS)][-1]
    assert isinstance(result, Result)
    found = int(result.stdout)
    own = max(before for before in standing if before <= found)  # others may just have been forked
    assert found - own < 40, (found, standing)  # 10 to 15; 57 to 74 where no page is copied ahead


def children(parent: int) -> list[int]:
    """Processes that one has started; none where it has ended."""
    with contextlib.suppress(OSError):
        return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    return []


def faults(pid: int) -> int:
    """Page faults of a process so far; 0 where it has ended."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])
    return 0


@pytest.fixture
async def data(languages: dict[str, Language]) -> AsyncIterator[LocalExecutor]:
    async with open_local(LocalSettings(preload="data"), 2, languages.values()) as executor:
        yield executor


@pytest.mark.slow
async def test_the_data_profile(data: LocalExecutor, py: Language) -> None:
    loaded = "import sys\nprint([name in sys.modules for name in ('numpy', 'pandas', 'matplotlib.pyplot')])"
    assert await printed(data, py, loaded) == "[True, True, True]"
    numbers = "import numpy\nprint(numpy.random.random())"
    assert len({await printed(data, py, numbers) for _ in range(5)}) == 5
    plot = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.savefig('p.png')"
    result = await run(data, py, plot)
    assert [file.name for file in result.files] == ["p.png"], result
    frame = "import pandas\nprint(pandas.DataFrame({'a': [1, 2]}).a.sum())"
    assert await printed(data, py, frame) == "3"


async def test_the_hash_secret_lasts_as_long_as_a_master(py: Language, languages: dict[str, Language]) -> None:
    """Forks share it, which is documented; a new master has another, and takes over after so many jobs."""
    code = "print(hash('abc'))"
    async with open_local(LocalSettings(recycle_jobs=20), 1, languages.values()) as executor:
        first = await printed(executor, py, code)
        assert await printed(executor, py, code) == first
        async with asyncio.timeout(30):
            while await printed(executor, py, code) == first:
                pass


async def test_descriptors(isolated: LocalExecutor, py: Language, languages: dict[str, Language]) -> None:
    listing = "import os\nfor fd in range(256):\n  try: os.fstat(fd); print(fd)\n  except OSError: pass"
    assert (await printed(isolated, py, listing)).split() == ["0", "1", "2", "3"]  # 3: the child's own control socket
    child = f"import subprocess, sys\nsubprocess.run([sys.executable, '-S', '-c', {listing!r}], close_fds=False)"
    assert (await printed(isolated, py, child)).split() == ["0", "1", "2"]
    if isolated.level != "landlock":
        own = "for fd in /proc/self/fd/*; do echo ${fd##*/}; done"
        assert set((await printed(isolated, languages["bash"], own)).split()) <= {"0", "1", "2", "3", "255"}  # 3: the listing itself


FORGED = {
    "done": b'{"type":"done","code":0}',
    "ready": b'{"type":"ready"}',
    "failed": b'{"type":"failed","reason":"forged"}',
    "lost": b'{"type":"lost","reason":"forged"}',
    "file": b'{"type":"file","name":"../../etc/passwd"}',
    "nonsense": b"[1]",
}


@pytest.mark.parametrize("kind", FORGED)
async def test_a_forged_frame_gets_nothing_but_the_jobs_own_end(isolated: LocalExecutor, py: Language, kind: str) -> None:
    frame = FORGED[kind]
    code = f"""
import os, struct, time
head = {frame!r}
os.write(3, struct.pack("!II", len(head), 0) + head)
os.write(1, b"on")
time.sleep(0.2)
raise SystemExit(7)
"""
    result = await run(isolated, py, code)
    assert result.files == ()
    expected = {"done": ("ok", 0), "failed": ("rejected", None)}.get(kind)
    if expected is None:
        assert result.status == "failed"
    else:
        assert result.status == expected[0]
    assert (await run(isolated, py, "print('next')")).stdout == "next\n"


async def test_garbage_on_the_control_socket(isolated: LocalExecutor, py: Language) -> None:
    code = """
import os, socket
s = socket.socket(fileno=os.dup(3))
s.setblocking(False)
try:
    for _ in range(1000): s.send(b"\\xff" * 65536)
except OSError: pass
print("sent", flush=True)
os._exit(5)
"""
    result = await run(isolated, py, code)
    assert (result.status, result.exit_code, result.stdout) == ("failed", 5, "sent\n")
    assert (await run(isolated, py, "print('next')")).stdout == "next\n"


async def test_nothing_of_the_agent_is_in_sight(isolated: LocalExecutor, py: Language) -> None:
    names = "import sys\nprint([m for m in sys.modules if m.split('.')[0] == 'agent'], [p for p in sys.path if 'pyz' in p], sys.argv)"
    assert (await printed(isolated, py, names)).startswith("[] [] [")
    module = "import agent\nprint(agent.X)"
    assert await printed(isolated, py, module, files=(File(name="agent.py", text="X = 4"),)) == "4"
    result = await run(isolated, py, "def f():\n    1/0\nf()\n")
    assert result.stderr.count("File ") == 2
    assert "agent.pyz" not in result.stderr


async def test_no_variable_of_the_daemon_is_in_the_environment(
    isolated: LocalExecutor, py: Language, languages: dict[str, Language]
) -> None:
    expected = {"HOME", "LANG", "PATH", "TMPDIR"}
    assert set((await printed(isolated, py, "import os\nprint(*os.environ)")).split()) == {*expected, *py.env}
    names = {line.partition("=")[0] for line in (await printed(isolated, languages["bash"], "env")).splitlines()}
    assert names <= {*expected, "PWD", "SHLVL", "_", "OLDPWD"}


@pytest.mark.parametrize("own", [{}, {"GREETING": "hallo", "PATH": "/opt/mine"}])
async def test_a_warm_program_and_what_it_starts_have_the_same_environment(
    isolated: LocalExecutor, py: Language, own: dict[str, str]
) -> None:
    code = "import json, os, subprocess\nprint(json.dumps([dict(os.environ), subprocess.check_output(['/usr/bin/env'], text=True)]))"
    ours, started = json.loads(await printed(isolated, py, code, env=own))
    assert ours == dict(line.split("=", 1) for line in started.splitlines())
    usual = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", **py.env}
    assert {name: value for name, value in ours.items() if name not in ("HOME", "TMPDIR")} == usual | own


THREADS = {
    "joined": "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.2), print('late'))).start()",
    "of a pool that nobody shuts down": "from concurrent.futures import ThreadPoolExecutor\nThreadPoolExecutor().submit(print, 'late')",
    "asked to end": "import threading\nthreading._register_atexit(print, 'late')",
}


@pytest.mark.parametrize("kind", THREADS)
async def test_threads_have_their_end(isolated: LocalExecutor, py: Language, kind: str) -> None:
    assert await printed(isolated, py, THREADS[kind]) == "late"


HELD = """
import logging, logging.handlers, sys
held = logging.handlers.MemoryHandler(100, target=logging.StreamHandler(sys.stdout))
logging.getLogger().addHandler(held)
logging.getLogger().warning("held back")
"""
"""Nothing of it is printed before `logging` ends."""


@pytest.mark.parametrize("end", ["", "logging.lastResort = logging._defaultLastResort = None", "sys.exit()"])
async def test_logging_has_its_end(isolated: LocalExecutor, py: Language, end: str) -> None:
    code = f"{HELD}{end}" if end == "sys.exit()" else f"import logging\n{end}\n{HELD}"
    result = await run(isolated, py, code)
    assert (result.status, result.stdout, result.stderr) == ("ok", "held back\n", ""), result


async def test_what_was_made_before_a_job_starts_no_collection_of_garbage_in_it(isolated: LocalExecutor, py: Language) -> None:
    enabled, new = (await printed(isolated, py, "import gc\nprint(gc.isenabled(), gc.get_count()[0])")).split()
    assert enabled == "True"
    assert int(new) < 200, new


async def test_ipc_objects_are_gone_with_their_job(executor_at: ExecutorAt, py: Language) -> None:
    make = "import ctypes\nprint(ctypes.CDLL(None).shmget(4711, 4096, 0o1666) >= 0)"
    look = "import ctypes\nprint(ctypes.CDLL(None).shmget(4711, 4096, 0o666) >= 0)"
    executor = await executor_at("strong")
    assert await printed(executor, py, make) == "True"
    assert {await printed(executor, py, look) for _ in range(10)} == {"False"}
    # without a control group there would be no account of their memory
    assert await printed(await executor_at("userns"), py, make) == "False"


FORKS = """
import os, time
data = bytearray(os.urandom(1 << 20)) * 100
pids = []
for number in range(4):
    pid = os.fork()
    if pid == 0:
        @CHILD@
        time.sleep(0.7)
        os._exit(len(data) != 100 << 20)
    pids.append(pid)
print([os.waitpid(pid, 0)[1] for pid in pids])
"""


@pytest.mark.parametrize("level", ["strong", "userns"])
async def test_what_processes_have_from_a_fork_counts_once(executor_at: ExecutorAt, py: Language, level: str) -> None:
    executor = await executor_at(level)
    limits = msgspec.structs.replace(LIMITS, memory_bytes=256 << 20)
    shared = await run(executor, py, FORKS.replace("@CHILD@", "pass"), limits=limits)
    assert (shared.status, shared.stdout) == ("ok", "[0, 0, 0, 0]\n")
    copied = await run(executor, py, FORKS.replace("@CHILD@", "data[::4096] = bytes(len(data[::4096]))"), limits=limits)
    assert copied.status == "oom", copied


async def test_no_cell_or_mount_or_cgroup_is_left(languages: dict[str, Language], py: Language) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    async with open_local(LocalSettings(), 2, languages.values()) as executor:
        await run(executor, py, "print(1)")
        pid, directory = executor.agent_pid, str(executor._directory)
    with open("/proc/mounts") as mounts:
        assert [mount for mount in mounts if directory in mount] == []
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert [name for _, names, _ in os.walk("/sys/fs/cgroup") for name in names if name.startswith(f"runnerd-{pid}-")] == []
    assert not os.path.exists(f"/proc/{pid}")


async def test_a_cell_that_is_stuck_loses_its_job_and_no_more(isolated: LocalExecutor, py: Language) -> None:
    """Its PID 1 is told to end the job, and does nothing: then it is killed as a whole."""
    limits = msgspec.structs.replace(LIMITS, wall_s=0.5)
    job = Job(id="job", tenant="t", lang="py", code="print('on', flush=True)\nwhile True: pass", stream=True)
    async with isolated.sandbox(py) as sandbox:
        result = None
        async for event in sandbox.run(job, py, limits):
            if isinstance(event, Output):
                for pid in cells_of(isolated):
                    os.kill(pid, signal.SIGSTOP)
            result = event
    assert isinstance(result, Result)
    assert result.status == "timeout"
    for pid in cells_of(isolated):
        os.kill(pid, signal.SIGCONT)
    assert await printed(isolated, py, "print('goes on')") == "goes on"


def cells_of(executor: LocalExecutor) -> set[int]:
    """Process ids of the PID 1 of each cell."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text()
                name, parent = stat[stat.index("(") + 1 : stat.rindex(")")], stat[stat.rindex(")") + 2 :].split()[1]
                if name == "runnerd-cell" and int(parent) == executor.agent_pid:
                    found.add(int(entry.name))
    return found


def test_cpu_time_of_a_child_that_was_stopped_counts_once() -> None:
    """The cell's total lacks what the stopped child has used, until that has ended; others of the cell end meanwhile."""
    told: list[int] = []

    class User:
        def child_ended(self, _status: int, cpu_ns: int, _memory: int, _only_file: str) -> None:
            told.append(cpu_ns)

    slot = Slot(Loop(), 0, None, None)  # type: ignore[arg-type]
    slot.user = User()  # type: ignore[assignment]
    for total in (10, 10 - 2 + 1, 10 - 2 + 4):  # one job; a collector, with 2 told of the stopped child; the child, with 2 more
        slot._ended(ENDED.pack(b"x", 0, total, 0))
    assert told == [10, 0, 2]
