"""The local executor's own life: what it leaves when it is killed, how it starts, which cells it reuses."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from conftest import ExecutorAt
from runnerd import Job, Language, Limits, Result, SandboxError
from runnerd.executors.local import LocalExecutor, LocalSettings, open_local

LIMITS = Limits(
    wall_s=10, cpu_s=10, memory_bytes=512 << 20, processes=64, open_files=256, output_bytes=1 << 16, file_bytes=1 << 20, files=4
)
HOST = """
import asyncio, sys
from runnerd.executors.local import LocalSettings, open_local
from runnerd.executors.local import PROBE_LANGUAGE as py
from runnerd import Job, Limits
limits = Limits(wall_s=60, cpu_s=60, memory_bytes=1 << 29, processes=64, open_files=256, output_bytes=1 << 16, file_bytes=1 << 20, files=4)
async def main():
    async with open_local(LocalSettings(level=sys.argv[1]), 2, []) as executor, executor.sandbox(py) as sandbox:
        job = Job(id="j", tenant="t", lang="py", code="print('on', flush=True)\\nwhile True: pass", stream=True)
        async for event in sandbox.run(job, py, limits):
            if hasattr(event, "content"):
                print(executor.agent_pid, flush=True)
asyncio.run(main())
"""


def descendants(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        path = Path(f"/proc/{parent}/task/{parent}/children")
        found += [int(word) for word in path.read_text().split()] if path.exists() else []
    return found


def scratch(daemon: int) -> list[Path]:
    """The directories of a daemon."""
    return list(Path(tempfile.gettempdir()).glob(f"runnerd-{daemon}-*"))


def cgroups(pids: list[int]) -> set[Path]:
    """runnerd's control groups that these processes are in: other daemons of this machine have theirs."""
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines() if "/runnerd-" in line]
    paths = {line.rpartition("/runnerd-")[2].partition("/")[0] for line in lines}
    return {Path(top, name) for top, names, _ in os.walk("/sys/fs/cgroup") for name in names if name.removeprefix("runnerd-") in paths}


@pytest.mark.parametrize("level", ["strong", "userns", "landlock"])
async def test_a_killed_daemon_leaves_no_process_and_the_next_one_cleans_up(level: str, languages: dict[str, Language]) -> None:
    daemon = subprocess.Popen([sys.executable, "-c", HOST, level], stdout=subprocess.PIPE, text=True)
    assert daemon.stdout is not None
    agent = int(daemon.stdout.readline())
    left = descendants(agent)
    assert len(left) >= 3  # agent, master, cell, job
    groups = cgroups(left)
    assert bool(groups) == (level == "strong")
    assert scratch(daemon.pid)
    daemon.send_signal(signal.SIGKILL)
    daemon.wait()
    daemon.stdout.close()
    async with asyncio.timeout(20):
        while any(os.path.exists(f"/proc/{pid}") for pid in left):
            await asyncio.sleep(0.02)
    async with open_local(LocalSettings(level=level), 2, languages.values()):  # type: ignore[arg-type]
        pass
    assert not scratch(daemon.pid)
    assert not [group for group in groups if group.exists()]


async def pid_of(executor: LocalExecutor, language: Language, tenant: str) -> int:
    """A job's process id in its cell: it rises from job to job until the cell is made anew."""
    job = Job(id="j", tenant=tenant, lang="py", code="import os\nprint(os.getpid())")
    async with executor.sandbox(language) as sandbox:
        result = [event async for event in sandbox.run(job, language, LIMITS)][-1]
    assert isinstance(result, Result)
    return int(result.stdout)


async def test_a_cell_is_made_anew_for_another_tenant(languages: dict[str, Language], py: Language) -> None:
    async with open_local(LocalSettings(level="userns"), 1, languages.values()) as executor:
        first = await pid_of(executor, py, "a")
        assert await pid_of(executor, py, "a") > first
        assert await pid_of(executor, py, "a") > first + 1
        assert await pid_of(executor, py, "b") == first


async def test_more_leases_than_cells_wait_for_one_another(languages: dict[str, Language], py: Language) -> None:
    async with open_local(LocalSettings(), 2, languages.values()) as executor:
        pids = await asyncio.gather(*(pid_of(executor, py, "t") for _ in range(4)))
        assert len(pids) == 4


async def test_no_python(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match=r"local\.python"):
        async with open_local(LocalSettings(python=str(tmp_path / "none")), 1, []):
            pass


async def test_an_error_in_the_block_comes_out_as_it_is() -> None:
    with pytest.raises(LookupError):
        async with open_local(LocalSettings(), 1, []):
            raise LookupError


async def test_what_the_result_says_of_its_sandbox(executor_at: ExecutorAt, py: Language) -> None:
    for level, memory in (("strong", "memory"), ("userns", "memory_watchdog")):
        executor = await executor_at(level)
        async with executor.sandbox(py) as sandbox:
            job = Job(id="j", tenant="t", lang="py", code="print(1)")
            result = [event async for event in sandbox.run(job, py, LIMITS)][-1]
        assert isinstance(result, Result)
        assert result.sandbox is not None
        assert result.sandbox.level == level
        assert memory in result.sandbox.enforced
