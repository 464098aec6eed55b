"""Level `gvisor`: what its kernel bounds, and what is left of a container; the contract of executors runs at this level, too."""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from conftest import LOCAL, ExecutorAt
from runnerd import Job, Language, Limits, Result, SandboxError, SandboxLost
from runnerd.executors.gvisor import GvisorExecutor
from runnerd.executors.here import open_here
from runnerd.executors.local import GVISOR

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="level gvisor needs root")]
LIMITS = Limits(wall_s=8, cpu_s=8, memory_bytes=256 << 20, processes=32, open_files=256, output_bytes=1 << 16, file_bytes=1 << 30, files=4)


@pytest.fixture
async def gvisor(executor_at: ExecutorAt) -> GvisorExecutor:
    return await executor_at(GVISOR)  # type: ignore[return-value]


async def run(executor: GvisorExecutor, language: Language, code: str) -> Result:
    async with asyncio.timeout(120), executor.sandbox(language) as sandbox:
        *_, last = [event async for event in sandbox.run(Job(id="j", tenant="t", lang="py", code=code), language, LIMITS)]
    assert isinstance(last, Result)
    return last


HOSTILE = {
    "a fork bomb": ("import os\nwhile True: os.fork()", {("limit", "processes"), ("failed", None), ("oom", "memory_bytes")}),
    "memory": ("b = bytearray(1 << 30)\nwhile True: pass", {("oom", "memory_bytes")}),
    "files": (
        "n = 0\nwhile True:\n  open(f'f{n}', 'wb').write(b'x' * (1 << 20))\n  n += 1",
        {("failed", None), ("limit", "workspace_bytes"), ("oom", "memory_bytes")},
    ),
    "no end": ("while True: pass", {("timeout", None), ("timeout", "wall_s"), ("limit", "cpu_s"), ("timeout", "cpu_s")}),
    "a kill of everything": ("import os\nos.kill(-1, 9)\nprint('on')", {("ok", None), ("failed", None)}),
    "a new root": ("import ctypes\nassert ctypes.CDLL(None).mount(b'x', b'/tmp', b'tmpfs', 0, None) == 0", {("failed", None)}),
}


@pytest.mark.parametrize("kind", HOSTILE)
async def test_what_hostile_programs_come_to(gvisor: GvisorExecutor, py: Language, kind: str) -> None:
    code, ends = HOSTILE[kind]
    result = await run(gvisor, py, code)
    assert (result.status, result.limit) in ends, result
    assert (await run(gvisor, py, "print('hi')")).stdout == "hi\n"


async def test_its_kernel_is_its_own(gvisor: GvisorExecutor, py: Language) -> None:
    result = await run(gvisor, py, "import os\nprint(os.uname().release, os.listdir('/sys/class') if os.path.exists('/sys/class') else '')")
    assert result.stdout.split()[0] != os.uname().release
    assert result.sandbox is not None
    assert (result.sandbox.level, result.sandbox.executor) == ("gvisor", "local")


async def test_nothing_is_left_of_a_container(gvisor: GvisorExecutor, py: Language) -> None:
    before = held(gvisor)
    await run(gvisor, py, "import os\nif os.fork() == 0:\n  os.setsid()\n  while True: pass")
    with pytest.raises(RuntimeError):
        async with gvisor.sandbox(py):
            raise RuntimeError
    assert held(gvisor) == before


def held(executor: GvisorExecutor) -> tuple[list[int], list[str], int, list[str]]:
    """Processes of runsc that are this executor's, its directories, our descriptors, and its control groups."""
    tops = [] if executor._groups is None else sorted(set(executor._groups._tops.values()))
    groups = [f"{top}/{name}" for top in tops for name in os.listdir(top) if name.startswith("sandbox-")]
    return containers(executor._directory), sorted(os.listdir(executor._directory)), len(os.listdir("/proc/self/fd")), groups


def containers(directory: Path) -> list[int]:
    """Processes that are told to work in the directory."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = Path(f"/proc/{name}/cmdline").read_bytes()
        except OSError:  # gone meanwhile
            continue
        if os.fsencode(directory) in command and b"runsc" in command:
            found.append(int(name))
    return found


async def test_a_container_that_is_killed_is_a_lost_sandbox(gvisor: GvisorExecutor, py: Language) -> None:
    async with gvisor.sandbox(py) as sandbox:
        lost = asyncio.create_task(sandbox.lost())
        for pid in containers(gvisor._directory):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert "the agent hung up" in await asyncio.wait_for(lost, 20)
        with pytest.raises(SandboxLost):
            [_ async for _ in sandbox.run(Job(id="j", tenant="t", lang="py", code="1"), py, LIMITS)]
    assert (await run(gvisor, py, "print('hi')")).stdout == "hi\n"


OPENS = """
import asyncio, sys
from runnerd.executors.here import open_here
from runnerd.executors.local import LocalSettings
from runnerd.plugins import find_plugins

async def main():
    py = find_plugins().languages["py"]
    async with open_here(LocalSettings(level="gvisor"), 4, [py]) as executor, executor.sandbox(py), executor.sandbox(py):
        print(executor._directory, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.usefixtures("gvisor")
async def test_a_killed_daemon_leaves_no_container() -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", OPENS, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    async with asyncio.timeout(60):
        directory = Path((await process.stdout.readline()).decode().strip())
        assert len(containers(directory)) >= 2
        process.kill()
        await process.wait()
        while containers(directory):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"runsc": "no-such-runsc"}, "local.runsc: there is no program 'no-such-runsc': apt-get install runsc"),
        ({"runsc": "false"}, "runsc made no sandbox: it says nothing"),
        ({"runsc_flags": ("--no-such-flag",)}, "runsc made no sandbox: flag provided but not defined: -no-such-flag"),
    ],
)
@pytest.mark.usefixtures("gvisor")
async def test_what_is_wrong_is_said(py: Language, changes: dict[str, object], reason: str) -> None:
    with pytest.raises(SandboxError, match=reason):
        async with open_here(msgspec.structs.replace(LOCAL, level=GVISOR, **changes), 1, [py]):
            pass


@pytest.mark.usefixtures("gvisor")
async def test_a_runsc_that_says_a_lot_does_not_block(py: Language, tmp_path: Path) -> None:
    chatty = tmp_path / "chatty"
    chatty.write_text('#!/bin/sh\nhead -c 400000 /dev/zero | tr "\\0" x >&2\nexec runsc "$@"\n')
    chatty.chmod(0o755)
    async with open_here(msgspec.structs.replace(LOCAL, level=GVISOR, runsc=str(chatty)), 1, [py]) as executor:
        assert (await run(executor, py, "print('hi')")).stdout == "hi\n"  # type: ignore[arg-type]
