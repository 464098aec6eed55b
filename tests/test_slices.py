"""Who takes the processor for short slices: what is woken for jobs. And who does not: jobs, and what starts them."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import ExecutorAt
from runnerd import Language, shorten_slices
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


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def test_a_process_with_its_nice_value(sleeper: subprocess.Popen[bytes]) -> None:
    usual = slice_of(sleeper.pid)
    assert usual > SHORT
    os.setpriority(os.PRIO_PROCESS, sleeper.pid, 3)
    shorten_slices(sleeper.pid)
    assert slice_of(sleeper.pid) == SHORT
    assert os.getpriority(os.PRIO_PROCESS, sleeper.pid) == 3


def test_another_policy_is_left_alone(sleeper: subprocess.Popen[bytes]) -> None:
    os.sched_setscheduler(sleeper.pid, os.SCHED_BATCH, os.sched_param(0))
    shorten_slices(sleeper.pid)
    assert os.sched_getscheduler(sleeper.pid) == os.SCHED_BATCH
    assert slice_of(sleeper.pid) != SHORT


def test_a_process_that_is_gone() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
        shorten_slices(process.pid)


OWN = """
import subprocess, sys, threading
from runnerd import shorten_slices
sys.path.insert(0, sys.argv[1])
from test_slices import SHORT, of_a_thread, slice_of

shorten_slices(inherited=sys.argv[2] == "True")
shorten_slices(inherited=sys.argv[2] == "True")
with subprocess.Popen(["sleep", "60"]) as child:
    print(slice_of(0) == SHORT, slice_of(child.pid) == SHORT, of_a_thread() == SHORT)
    child.kill()
"""


def of_a_thread() -> int:
    """Slices of a thread that is started now."""
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(slice_of(0)))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize("inherited", [False, True])
def test_what_it_starts(inherited: bool) -> None:
    arguments = [sys.executable, "-c", OWN, str(Path(__file__).parent), str(inherited)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["True", str(inherited), str(inherited)]


@pytest.mark.parametrize("level", ["strong", "userns", "landlock", "process"])
async def test_the_agent_and_none_of_its_jobs(executor_at: ExecutorAt, py: Language, level: str) -> None:
    executor = await executor_at(level)
    assert executor.agent_pid is not None
    async with executor.sandbox(py):
        below = descendants(executor.agent_pid)
        names = {Path(f"/proc/{pid}/comm").read_text().strip() for pid in below}
        assert {"runnerd-master", "runnerd-cell"} <= names
        assert slice_of(executor.agent_pid) == SHORT
        assert not [pid for pid in below if slice_of(pid) == SHORT]


async def test_a_daemon_and_its_bus(tmp_path: Path) -> None:
    settings = ("isolation.minimum=process", "languages.py.warm=1", "languages.js.warm=0", "scheduler.slots=1")
    async with serving(tmp_path, *settings) as daemon:
        below = {pid: Path(f"/proc/{pid}/comm").read_text().strip() for pid in descendants(daemon.process.pid)}
        (bus,) = [pid for pid, name in below.items() if name == "nats-server"]
        (master,) = [pid for pid, name in below.items() if name == "runnerd-master"]
        threads = [int(thread) for thread in os.listdir(f"/proc/{bus}/task")]
        assert len(threads) > 1
        assert {slice_of(pid) for pid in (daemon.process.pid, *threads)} == {SHORT}
        assert slice_of(master) != SHORT
        assert (await daemon.stop())[0] == 0


def descendants(pid: int) -> list[int]:
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [each for child in children for each in (child, *descendants(child))]
