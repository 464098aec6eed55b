"""What a pod keeps from job to job, and what it does not: in a container made by hand, without a cluster."""

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from fake_executor import wait_until
from kept_sandbox import KeptSandbox
from pods.test_agent import LIMITS, PY, Container, container, program
from runnerd import Job, Language, Result, SandboxError, SandboxLost, new_id
from runnerd.agent import landlock
from runnerd.executors.pods.executor import _check
from runnerd.executors.pods.sandbox import PodSandbox

__all__ = ["program"]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="making a container by hand needs root")
TENANT = structs.replace(PY, reuse="tenant")


async def tenant_job(sandbox: PodSandbox, code: str, language: Language = TENANT, tenant: str = "t", **limits: Any) -> Result:
    job = Job(id=new_id(), tenant=tenant, lang=language.code, code=code)
    async with asyncio.timeout(60):
        *_, last = [event async for event in sandbox.run(job, language, structs.replace(LIMITS, **limits))]
    assert isinstance(last, Result)
    return last


def inside(agent: Container) -> list[tuple[int, str, str]]:
    """Process id, name and state of all that runs in a container."""
    found, known = [agent.process.pid], []
    for pid in found:
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            for task in Path(f"/proc/{pid}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
            head, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
            known.append((pid, head.partition("(")[2], rest.split()[0]))
    return known


class TestSession:
    async def test_files_and_interpreter_stay(self, program: Path) -> None:
        async with container(program) as agent:
            kept = KeptSandbox(await agent.lease(), PY)
            await kept.result("import threading\nx, lock = 1, threading.Lock()\nopen('a', 'w').write('a')\nopen('/tmp/t', 'w').close()")
            assert kept.asleep
            code = "import os\nx += 1; print(x, lock.locked(), open('a').read(), os.listdir('/tmp'))"
            assert await kept.printed(code) == "2 False a ['t']\n"
            failed = await kept.result("1 / 0")
            assert failed.sandbox is not None
            assert (failed.status, failed.sandbox.served, failed.sandbox.reuse, kept.sandbox.kept) == ("failed", 2, "session", False)

    async def test_the_interpreter_is_killed_between_two_jobs(self, program: Path) -> None:
        async with container(program) as agent:
            sandbox = await agent.lease()
            kept = KeptSandbox(sandbox, PY)
            await kept.result("x = 1")
            (pid,) = [pid for pid, _, state in inside(agent) if state == "T"]
            lost = asyncio.create_task(sandbox._wire.wait_closed())
            os.kill(pid, signal.SIGKILL)
            assert await lost == "its interpreter ended while it waited for the next job"
            assert await agent.ended() == 0

    async def test_it_ends_with_its_lease(self, program: Path) -> None:
        async with container(program) as agent:
            kept = KeptSandbox(await agent.lease(), PY)
            await kept.result("x = 1")
            kept.sandbox._wire.close()
            assert await agent.ended() == 0


@pytest.mark.skipif(landlock.abi() < landlock.ABI_SCOPES, reason="this kernel has no Landlock of ABI 6, without which it is refused")
class TestTenant:
    async def test_nothing_of_the_last_job_is_left(self, program: Path) -> None:
        leave = """
import os, subprocess, sys, time
x = 1
os.environ["LEFT"] = "left"
sys.modules["json"].left = True
for path in ("/mnt/data", "/tmp", "/dev/shm"):
    os.makedirs(path + "/dir/deep")
    os.chmod(path + "/dir", 0)
    open(path + "/left", "w").write("left")
    os.symlink("/etc", path + "/link")
    os.mkfifo(path + "/pipe")
    try: os.setxattr(path, "user.left", b"left")
    except OSError: pass
os.umask(0)
for _ in range(3):
    subprocess.Popen(["sleep", "300"], start_new_session=True)
if os.fork() == 0:
    while True: time.sleep(1)
print("left")
"""
        look = """
import json, os, sys
print([os.listdir(path) for path in ("/mnt/data", "/tmp", "/dev/shm")], [os.listxattr(path) for path in ("/mnt/data", "/tmp", "/dev/shm")])
print("x" in globals(), os.environ.get("LEFT"), hasattr(json, "left"), oct(os.umask(0o22)))
print(sorted(int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) not in (1, os.getpid(), os.getppid())))
"""
        async with container(program, nested=True) as agent:
            sandbox = await agent.lease()
            for served in range(0, 6, 2):
                result = await tenant_job(sandbox, leave)
                assert (result.status, result.stdout, sandbox.kept) == ("ok", "left\n", True), result
                assert result.sandbox is not None
                assert (result.sandbox.reuse, result.sandbox.served) == ("tenant", served)
                clean = await tenant_job(sandbox, look)
                assert clean.stdout == "[['main.py'], [], []] [[], [], []]\nFalse None False 0o22\n[]\n", clean

    @pytest.mark.parametrize(
        ("code", "limits", "status"),
        [
            ("1 / 0", {}, "failed"),
            ("while True: pass", {"wall_s": 0.5}, "timeout"),
            ("import os\nwhile True: os.write(1, b'x' * 65536)", {}, "limit"),
            ("import os\nfor _ in range(500): os.fork()\nimport time; time.sleep(30)", {"wall_s": 20.0}, "limit"),
            ("import os; os.kill(os.getpid(), 9)", {}, "failed"),
        ],
    )
    async def test_however_a_job_ends_the_next_one_can_come(self, program: Path, code: str, limits: Any, status: str) -> None:
        async with container(program, nested=True) as agent:
            sandbox = await agent.lease()
            assert (await tenant_job(sandbox, code, **limits)).status == status
            assert sandbox.kept
            again = await tenant_job(sandbox, "print('hi')")
            assert (again.status, again.stdout) == ("ok", "hi\n")

    async def test_limits_count_anew(self, program: Path) -> None:
        async with container(program, nested=True) as agent:
            sandbox = await agent.lease()
            burn = "import time\nend = time.process_time() + 0.7\nwhile time.process_time() < end: pass\nx = b'x' * (60 << 20)"
            for _ in range(3):
                assert (await tenant_job(sandbox, burn + "\nprint('y' * 70_000)", cpu_s=1, memory_bytes=200 << 20)).status == "ok"

    async def test_files_are_collected_from_each(self, program: Path) -> None:
        async with container(program, nested=True) as agent:
            sandbox = await agent.lease()
            for name in "ab":
                result = await tenant_job(sandbox, f"open('{name}', 'w').write('{name}')")
                assert [(file.name, file.text or file.data) for file in result.files] == [(name, name.encode())]

    async def test_another_tenants_job_is_refused_by_the_agent(self, program: Path) -> None:
        async with container(program, nested=True) as agent:
            sandbox = await agent.lease()
            assert (await tenant_job(sandbox, "print('hi')")).status == "ok"
            with pytest.raises(SandboxLost):
                await tenant_job(sandbox, "print('hi')", tenant="else")

    async def test_a_job_can_not_reach_what_outlives_it(self, program: Path) -> None:
        attack = """
import ctypes, os, signal, socket
tried = {}
def attempt(name, act):
    try: act(); tried[name] = "done"
    except (OSError, PermissionError, ProcessLookupError) as error: tried[name] = type(error).__name__
for pid in (1, os.getppid(), -1, 0 - os.getppid()):
    attempt(f"kill {pid < 0}", lambda: os.kill(pid, signal.SIGKILL))
    attempt(f"stop {pid < 0}", lambda: os.kill(pid, signal.SIGSTOP))
attempt("mem", lambda: open(f"/proc/{os.getppid()}/mem", "r+b"))
attempt("environ", lambda: open("/proc/1/environ", "rb").read())
attempt("fds", lambda: os.listdir(f"/proc/{os.getppid()}/fd"))
attempt("agent", lambda: open("/mnt/agent/agent.pyz", "ab"))
attempt("queue", lambda: open("/dev/mqueue/left", "w"))
attempt("root", lambda: open("/left", "w"))
attempt("mnt", lambda: open("/mnt/left", "w"))
attempt("socket", lambda: socket.socket(socket.AF_UNIX))
libc = ctypes.CDLL(None, use_errno=True)
tried["shm"] = libc.shmget(77, 4096, 0o1666)
tried["sem"] = libc.semget(77, 1, 0o1666)
tried["mq"] = libc.mq_open(b"/left", os.O_CREAT | os.O_RDWR, 0o666, None)
tried["ptrace"] = libc.ptrace(16, os.getppid(), 0, 0)
print({name: what for name, what in tried.items() if what == "done" or (isinstance(what, int) and what != -1)})
"""
        async with container(program, nested=True) as agent:
            sandbox = await agent.lease()
            for _ in range(2):
                result = await tenant_job(sandbox, attack)
                assert (result.status, result.stdout, sandbox.kept) == ("ok", "{}\n", True), result

    def test_a_pod_that_can_not_do_it_is_no_sandbox_and_says_why(self) -> None:
        _check(TENANT, {"nests": True})
        _check(PY, {})
        for said in ({}, {"nests": False}):
            with pytest.raises(SandboxError, match=r"languages\.py\.reuse = tenant: .* no Landlock of ABI 6"):
                _check(TENANT, said)

    async def test_an_agent_that_was_not_told_so_does_not_do_it(self, program: Path) -> None:
        async with container(program) as agent:
            sandbox = await agent.lease()
            result = await tenant_job(sandbox, "print('hi')")
            assert result.sandbox is not None
            assert (result.sandbox.reuse, sandbox.kept) == ("job", False)

    async def test_it_ends_with_its_lease(self, program: Path) -> None:
        async with container(program, nested=True) as agent:
            sandbox = await agent.lease()
            await tenant_job(sandbox, "print('hi')")
            sandbox._wire.close()
            assert await agent.ended() == 0

    async def test_no_process_is_left_between_two_jobs_but_those_of_the_agent(self, program: Path) -> None:
        async with container(program, nested=True) as agent:
            sandbox = await agent.lease()
            before = len(inside(agent))
            await tenant_job(sandbox, "import subprocess\nfor _ in range(5): subprocess.Popen(['sleep', '300'], start_new_session=True)")
            await wait_until(lambda: len(inside(agent)) == before, "only the agent, the cell and its next child are there")
