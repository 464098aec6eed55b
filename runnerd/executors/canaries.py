"""Canary probes: attacks that a sandbox must withstand before its level is believed.

Each probe is a Python program; whether it got through is seen from outside or told by a planted secret that it prints.
A test shows that every one of them succeeds at level `process`, so none of them can pass by not working.
"""

import asyncio
import contextlib
import os
import secrets
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

SURVIVOR_WAIT_S = 0.5
"""How long a killed process may take to disappear."""
STEP_S = 0.005

PROBES: dict[str, str] = {
    "planted file": """
print(open({directory!r} + "/secret").read())
""",
    "planted listener": """
import socket
socket.create_connection(("127.0.0.1", {port}), timeout=2).send(b"x")
""",
    "proc of the daemon": """
print(open("/proc/{pid}/environ", "rb").read())
""",
    "signal to the agent": """
import os
os.kill({pid}, 15)
""",
    "write outside": """
open({directory!r} + "/written", "w").close()
""",
    # The survivor first kills whoever would end it.
    "survivor": """
import ctypes, os, signal, time
r, w = os.pipe()
supervisor = os.getppid()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(15, b{name!r})
        for s in range(1, 65):
            try: signal.signal(s, signal.SIG_IGN)
            except (OSError, ValueError): pass
        try: os.kill(supervisor, 9)
        except OSError: pass
        os.write(w, b"x")
        for fd in range(64):
            try: os.close(fd)
            except OSError: pass
        time.sleep(3)
    os._exit(0)
os.read(r, 1)
""",
}
Submit = Callable[[str], Awaitable[str]]
"""Runs a program in a fresh sandbox and returns what it printed; empty where the sandbox was lost."""


class Bait(NamedTuple):
    """What is planted on the host for the probes to find."""

    directory: Path
    secret: str
    listener: socket.socket
    process: asyncio.subprocess.Process
    """Stands for the agent and the daemon: same user, with the secret in its environment."""
    name: str
    """What a surviving process calls itself."""

    def program(self, probe: str) -> str:
        """The probe's program."""
        port = self.listener.getsockname()[1]
        return PROBES[probe].format(directory=str(self.directory), port=port, pid=self.process.pid, name=self.name)


async def breaches(submit: Submit, credentials: Mapping[str, Any]) -> list[str]:
    """Run all probes; returns the names of those that got through. `credentials` are how the agent is started."""
    found = []
    async with _planted(credentials) as bait:
        for probe in PROBES:
            printed = await submit(bait.program(probe))
            if bait.secret in printed or await _visible(probe, bait):
                found.append(probe)
    return found


@contextlib.asynccontextmanager
async def _planted(credentials: Mapping[str, Any]) -> AsyncIterator[Bait]:
    secret = secrets.token_hex(8)
    with tempfile.TemporaryDirectory(prefix="runnerd-canary-") as path, socket.create_server(("127.0.0.1", 0)) as listener:
        directory = Path(path)
        _plant_file(directory, secret)
        listener.setblocking(False)
        process = await asyncio.create_subprocess_exec(
            "/bin/cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, env={"SECRET": secret}, **credentials
        )
        try:
            yield Bait(directory, secret, listener, process, "canary-" + secret[:8])
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _plant_file(directory: Path, secret: str) -> None:
    directory.chmod(0o777)
    (directory / "secret").write_text(secret)
    (directory / "secret").chmod(0o644)


async def _visible(probe: str, bait: Bait) -> bool:
    """Whether the probe left a mark on the host."""
    if probe == "planted listener":
        try:
            bait.listener.accept()[0].close()
        except BlockingIOError:
            return False
        return True
    if probe == "write outside":
        return "written" in os.listdir(bait.directory)
    if probe == "signal to the agent":
        try:
            await asyncio.wait_for(bait.process.wait(), STEP_S)
        except TimeoutError:
            return False
        return True
    return probe == "survivor" and await _survived(bait.name)


async def _survived(name: str) -> bool:
    for _ in range(int(SURVIVOR_WAIT_S / STEP_S)):
        if not _named(name):
            return False
        await asyncio.sleep(STEP_S)  # what was killed leaves the process table a little later
    return True


def _named(name: str) -> bool:
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            try:
                if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                    return True
            except OSError:  # gone meanwhile
                continue
    return False
