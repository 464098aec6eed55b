"""The agent of a pod without a cluster: PID 1 of a PID namespace, without any privilege, as a container has it."""

import asyncio
import hashlib
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from conftest import bundled_languages
from runnerd import Job, Limits, Result, SandboxError, SandboxLost
from runnerd.agent.frames import pack
from runnerd.agent.options import Options
from runnerd.executors import archive
from runnerd.executors.pods.knock import Secret, knock, new_secret
from runnerd.executors.pods.sandbox import PodSandbox
from runnerd.executors.pods.sighting import Sighting
from runnerd.executors.wire import Wire

PY = bundled_languages()["py"]
LIMITS = Limits(wall_s=5, cpu_s=5, memory_bytes=256 << 20, processes=32, open_files=256, output_bytes=1 << 16, file_bytes=1 << 20, files=4)
START = """
set -e
mount -t tmpfs -o size=16m,mode=755 tmpfs /mnt
mkdir -p /mnt/data
mount -t tmpfs -o mode=1777 tmpfs /mnt/data
cp -r "$1" /mnt/agent
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t proc proc /proc
cd /
exec setpriv --reuid 65532 --regid 65532 --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all \
  /usr/bin/python3 -I -X utf8 /mnt/agent/agent.pyz pod
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="making a container by hand needs root")


@pytest.fixture(scope="module")
def program() -> Any:
    directory = Path(tempfile.mkdtemp(prefix="agent-"))
    archive.write(directory / "agent.pyz")
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


class Container:
    """An agent and what is known of it."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, secret: Secret) -> None:
        self.process = process
        self.port = port
        self.secret = secret
        self.wires: list[Wire] = []

    async def lease(self, secret: Secret | None = None) -> PodSandbox:
        wire, ready = await knock("127.0.0.1", self.port, secret or self.secret)
        self.wires.append(wire)
        return PodSandbox(wire, ready, 1.0, 60.0, Sighting())

    async def ended(self) -> int:
        async with asyncio.timeout(20):
            return await self.process.wait()


def free_port() -> int:
    with socket.create_server(("", 0)) as listener:
        return int(listener.getsockname()[1])


@asynccontextmanager
async def container(program: Path, **options: Any) -> AsyncIterator[Container]:
    port, secret = free_port(), new_secret()
    told = Options(level="pod", scratch="", socket="", cells=1, port=port, proof=secret.proof.hex(), **options)
    process = await asyncio.create_subprocess_exec(
        "unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "sh", "-c", START, "sh", str(program),
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "RUNNERD_AGENT": told.dump()},
        stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    made = Container(process, port, secret)
    try:
        yield made
    finally:
        for wire in made.wires:
            wire.close()
        if process.returncode is None:
            process.kill()  # and with it, by --kill-child, all that is in there
        await process.wait()


async def result(sandbox: PodSandbox, code: str, **fields: Any) -> Result:
    job = Job(**({"id": "j", "tenant": "t", "lang": "py", "code": code} | fields))
    async with asyncio.timeout(60):
        *_, last = [event async for event in sandbox.run(job, PY, LIMITS)]
    assert isinstance(last, Result)
    return last


async def test_one_lease_and_then_it_ends(program: Path) -> None:
    async with container(program) as agent:
        sandbox = await agent.lease()
        assert (await result(sandbox, "import os\nprint(os.getcwd(), os.environ['HOME'])")).stdout == "/mnt/data /tmp\n"
        sandbox._wire.close()
        assert await agent.ended() == 0


async def test_a_second_connection_gets_nothing(program: Path) -> None:
    async with container(program) as agent:
        sandbox = await agent.lease()
        with pytest.raises(SandboxError, match="gave no lease: leased"):
            await agent.lease()
        assert (await result(sandbox, "print('hi')")).stdout == "hi\n"


async def test_a_wrong_secret_gets_nothing_and_costs_nothing(program: Path) -> None:
    async with container(program) as agent:
        with pytest.raises(SandboxError, match="whoever answers at the pod's address is not its agent"):
            await agent.lease(new_secret())
        with pytest.raises(SandboxLost, match="wrong secret"):
            await prove(agent, secrets.token_hex(32))
        with pytest.raises(SandboxLost, match="wrong secret"):  # the hash is all that the pod knows
            await prove(agent, agent.secret.proof.hex())
        assert (await result(await agent.lease(), "print('hi')")).stdout == "hi\n"


async def prove(agent: Container, secret: str) -> None:
    _, wire = await asyncio.get_running_loop().create_connection(Wire, "127.0.0.1", agent.port)
    wire.send_all([pack({"type": "prove", "secret": secret})])
    try:
        await wire.receive()
    finally:
        wire.close()


NONSENSE = {
    "no frame": b"GET / HTTP/1.1\r\n\r\n",
    "no object": b"\0\0\0\2\0\0\0\0[]",
    "a job without a proof": pack({"type": "run", "tenant": "t", "stages": []}),
    "a nonce that is none": pack({"type": "hello", "nonce": "xyz"}),
    "too much": pack({"type": "hello", "nonce": "00" * 5000}),
}


@pytest.mark.parametrize("kind", NONSENSE)
async def test_nonsense_ahead_of_the_proof(program: Path, kind: str) -> None:
    async with container(program) as agent:
        await wait_for(agent)
        reader, writer = await asyncio.open_connection("127.0.0.1", agent.port)
        writer.write(NONSENSE[kind])
        async with asyncio.timeout(20):
            with suppress(ConnectionResetError):
                assert b'"lost"' in await reader.read()
        writer.close()
        assert (await result(await agent.lease(), "print('hi')")).stdout == "hi\n"


async def wait_for(agent: Container) -> None:
    """Wait until it listens."""
    async with asyncio.timeout(20):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", agent.port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.transport.abort()
                return


async def test_many_who_prove_nothing_keep_nobody_out(program: Path) -> None:
    async with container(program) as agent:
        await wait_for(agent)
        idle = [await asyncio.open_connection("127.0.0.1", agent.port) for _ in range(40)]
        async with asyncio.timeout(30):
            while True:
                try:
                    sandbox = await agent.lease()
                    break
                except SandboxError:
                    await asyncio.sleep(0.2)
        assert (await result(sandbox, "print('hi')")).stdout == "hi\n"
        for _, writer in idle:
            writer.transport.abort()


HIDDEN = """
import os
above = f"/proc/{os.getppid()}/"
for path in ("/proc/1/environ", "/proc/1/mem", "/proc/1/maps", "/proc/1/fd/0", "/proc/1/root", above + "mem", above + "environ"):
    try:
        open(path, "rb").read(1)
        print("read", path)
    except OSError as error:
        pass
for pid in (1, os.getppid(), -1, -os.getppid()):
    for number in (9, 15, 19):
        try:
            os.kill(pid, number)
            print("signalled", pid, number)
        except OSError:
            pass
import ctypes, fcntl, signal
libc = ctypes.CDLL(None, use_errno=True)
for pid in (1, os.getppid()):
    if libc.ptrace(16, pid, 0, 0) == 0: print("traced", pid)
    if libc.syscall(434, pid, 0) >= 0: print("pidfd", pid)
    if libc.syscall(424, os.open(f"/proc/{pid}", os.O_RDONLY), 9, None, 0) == 0: print("signalled by /proc", pid)
    if libc.syscall(129, pid, 9, ctypes.create_string_buffer(128)) == 0: print("queued", pid)
r, w = os.pipe()
try:
    fcntl.fcntl(r, fcntl.F_SETOWN, os.getppid())
    print("owner")
except OSError: pass
if libc.syscall(310, 1, None, 0, None, 0, 0) >= 0: print("read memory")
import socket
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK, socket.AF_PACKET):
    try:
        socket.socket(family, socket.SOCK_DGRAM if family != socket.AF_UNIX else socket.SOCK_STREAM)
        print("socket", family)
    except OSError: pass
print("socketpair", bool(socket.socketpair()))
print("own", len(os.listdir("/proc/self/fd")) > 3)
"""


async def test_a_job_finds_no_secret_and_no_way_to_the_agent(program: Path) -> None:
    async with container(program) as agent:
        found = await result(await agent.lease(), HIDDEN)
        assert (found.stdout, found.stderr) == ("socketpair True\nown True\n", "")


async def test_a_job_may_signal_what_is_its_own(program: Path) -> None:
    code = """
import os, signal, subprocess
child = subprocess.Popen(["sleep", "60"], start_new_session=True)
os.killpg(child.pid, signal.SIGTERM)
print(child.wait())
child = subprocess.Popen(["sleep", "60"])
child.kill()
print(child.wait())
signal.signal(signal.SIGUSR1, lambda *_: print("mine"))
os.kill(0, signal.SIGUSR1)
"""
    async with container(program) as agent:
        assert (await result(await agent.lease(), code)).stdout == "-15\n-9\nmine\n"


async def test_processes_are_counted(program: Path) -> None:
    code = "import os, time\nfor _ in range(200):\n  if os.fork() == 0: time.sleep(60); os._exit(0)\ntime.sleep(60)"
    async with container(program) as agent:
        found = await result(await agent.lease(), code)
        assert (found.status, found.limit) == ("limit", "processes")


async def test_threads_are_counted(program: Path) -> None:
    code = "import threading, time\nfor _ in range(60): threading.Thread(target=time.sleep, args=(60,)).start()\ntime.sleep(60)"
    async with container(program) as agent:
        found = await result(await agent.lease(), code)
        assert (found.status, found.limit) == ("limit", "processes")


async def test_files_are_counted_as_memory_and_have_a_size(program: Path) -> None:
    code = "import time\nfor n in range(64): open(f'f{n}', 'wb').write(b'x' * (1 << 20))\ntime.sleep(60)"
    async with container(program, workspace_bytes=16 << 20) as agent:
        found = await result(await agent.lease(), code)
        assert (found.status, found.limit) == ("limit", "workspace_bytes")


async def test_memory_is_watched(program: Path) -> None:
    async with container(program) as agent:
        found = await result(await agent.lease(), "import time\nx = bytearray(400 << 20)\ntime.sleep(60)")
        assert (found.status, found.limit) == ("oom", "memory_bytes")


async def test_what_a_killed_job_left_is_gone_with_the_pod(program: Path) -> None:
    async with container(program) as agent:
        sandbox = await agent.lease()
        job = Job(
            id="j",
            tenant="t",
            lang="py",
            code="import os\nif os.fork() == 0: os.setsid()\nprint('on', flush=True)\nwhile True: pass",
            stream=True,
        )
        events = sandbox.run(job, PY, LIMITS)
        await anext(events)
        sandbox._wire.close()
        assert await agent.ended() == 0


async def test_a_job_has_no_trace_of_what_the_agent_was_told(program: Path) -> None:
    code = """
import gc, os, sys
def read(path):
    with open(path, "rb") as file: return file.read()
print([var for var in read("/proc/self/environ").split(b"\\0") if var])
print(read("/proc/self/cmdline").split(b"\\0")[1:-1], sys.flags.isolated, "agent" in " ".join(sys.modules))
print(sorted(os.environ), os.environ.get("LANGUAGE_OF_THE_IMAGE"))
"""
    async with container(program) as agent:
        found = await result(await agent.lease(), code)
        environ, arguments, variables = found.stdout.splitlines()
        assert environ == "[]"
        assert arguments == "[b'-I', b'-X', b'utf8', b'/mnt/agent/agent.pyz', b'pod'] 1 False"
        assert "RUNNERD" not in variables


async def test_a_pod_that_nobody_comes_for_ends(program: Path) -> None:
    async with container(program, unclaimed_s=0.5) as agent:
        assert await agent.ended() == 3


async def test_claims_from_two_daemons(program: Path) -> None:
    """Whoever knows the secret of an agent may try: one gets it, and nobody waits for it in vain."""
    won = 0
    for _ in range(3):
        async with container(program) as agent:
            claims = await asyncio.gather(*(agent.lease() for _ in range(10)), return_exceptions=True)
            leases = [claim for claim in claims if isinstance(claim, PodSandbox)]
            won += len(leases)
            assert all("leased" in str(claim) for claim in claims if not isinstance(claim, PodSandbox)), claims
            assert (await result(leases[0], "print('mine')")).stdout == "mine\n"
    assert won == 3


def test_the_hash_gives_nothing_away() -> None:
    secret = new_secret()
    assert secret.proof == hashlib.sha256(secret.secret).digest()
    assert len(secret.secret) == 32
