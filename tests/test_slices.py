"""Who takes the processor for short slices: what is woken for jobs. And who does not: jobs, and what starts them."""

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from conftest import ExecutorAt
from runnerd import Language
from runnerd.agent import linux
from serving import serving

pytestmark = pytest.mark.skipif(
    tuple(map(int, os.uname().release.split("-")[0].split(".")[:2])) < (6, 12), reason="slices of one's own are of Linux 6.12"
)
SHORT = 100_000


def slice_of(pid: int) -> int:
    """Nanoseconds."""
    attr = bytearray(48)
    linux.syscall("sched_getattr", pid, (linux.ctypes.c_char * 48).from_buffer(attr), 48, 0)
    return int.from_bytes(attr[24:32], "little")


OWN = """
import os, subprocess, sys
sys.path.insert(0, sys.argv[1])
from runnerd.executors.slices import shorten_slice
from test_slices import SHORT, of_a_thread, slice_of

os.setpriority(os.PRIO_PROCESS, 0, 3)
os.sched_setscheduler(0, int(sys.argv[2]), os.sched_param(0))
shorten_slice()
shorten_slice()
with subprocess.Popen(["sleep", "60"]) as child:
    print(slice_of(0) == SHORT, slice_of(child.pid) == SHORT, of_a_thread() == SHORT)
    print(os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK)
    child.kill()
"""


def of_a_thread() -> int:
    """Slices of a thread that is started now."""
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(slice_of(0)))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize(("policy", "own"), [(os.SCHED_OTHER, True), (os.SCHED_BATCH, False)])
def test_itself_and_nothing_that_it_starts(policy: int, own: bool) -> None:
    arguments = [sys.executable, "-c", OWN, str(Path(__file__).parent), str(policy)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == [f"{own} False False", f"3 {policy}"]


@pytest.mark.parametrize("level", ["strong", "userns", "landlock", "process"])
async def test_the_agent_and_none_of_its_jobs(executor_at: ExecutorAt, py: Language, level: str) -> None:
    executor = await executor_at(level)
    assert executor.agent_pid is not None
    async with executor.sandbox(py):
        slices = slices_below(executor.agent_pid)
        assert {"runnerd-master", "runnerd-cell"} <= {name for name, _ in slices}
        assert slice_of(executor.agent_pid) == SHORT
        assert not [name for name, ns in slices if ns == SHORT]


async def test_a_daemon_and_none_that_it_starts_but_its_agent(tmp_path: Path) -> None:
    settings = ("isolation.minimum=process", "languages.py.warm=1", "languages.js.warm=0", "scheduler.slots=1")
    async with serving(tmp_path, *settings) as daemon:
        assert slice_of(daemon.process.pid) == SHORT
        slices = slices_below(daemon.process.pid)
        assert {"nats-server", "runnerd-master"} <= {name for name, _ in slices}
        (agent,) = [name for name, ns in slices if ns == SHORT]
        assert agent.startswith("python")
        assert (await daemon.stop())[0] == 0


def slices_below(pid: int) -> list[tuple[str, int]]:
    """Name and slices of each process that descends from one, but for those that end meanwhile."""
    found: list[tuple[str, int]] = []
    with contextlib.suppress(OSError):
        for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            with contextlib.suppress(OSError):
                found.append((Path(f"/proc/{child}/comm").read_text().strip(), slice_of(child)))
            found += slices_below(child)
    return found
