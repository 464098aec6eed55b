"""The daemon under test, started as a user would start it, with a state directory and ports of its own."""

import asyncio
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from nats.aio.client import Client

from . import baselines, jobs, machine

START_S = 60.0
STOP_S = 30.0


@dataclass(frozen=True)
class Daemon:
    """A daemon that answers: its process id and where it listens."""

    pid: int
    url: str
    state: Path
    http: str
    """Base URL of its HTTP ingress."""

    def sandboxes(self) -> list[int]:
        """Its descendants, without the NATS server."""
        return [pid for pid in machine.descendants(self.pid) if machine.command(pid) != "nats-server"]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@asynccontextmanager
async def serve(*settings: str) -> AsyncIterator[tuple[Daemon, Client]]:
    """A daemon with these `key=value` settings, and a client connected to its NATS server. Raises RuntimeError with the daemon's log."""
    state = Path(tempfile.mkdtemp(prefix="runnerd-bench-"))
    nats_port, http_port = free_port(), free_port()
    url = f"nats://127.0.0.1:{nats_port}"
    ports = (f"ingress.nats.listen=127.0.0.1:{nats_port}", f"ingress.http.port={http_port}", f"state_dir={state}")
    argv = [sys.executable, "-m", "runnerd", "serve"]
    for setting in (*ports, *settings):
        argv += ["--set", setting]
    with (state / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*argv, cwd=state, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        client = await _connected(url, nats_port, process, state)
        try:
            await jobs.first(client, "py", jobs.body({"code": 'print("hi")'}))
            yield Daemon(process.pid, url, state, f"http://127.0.0.1:{http_port}"), client
        finally:
            await client.close()
    finally:
        await _stop(process, state)
        shutil.rmtree(state, ignore_errors=True)


async def _connected(url: str, port: int, process: asyncio.subprocess.Process, state: Path) -> Client:
    """A client, as soon as the server listens."""
    deadline = time.monotonic() + START_S
    while process.returncode is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return await baselines.connect(url)
        await asyncio.sleep(0.05)
    raise RuntimeError(f"the daemon did not come up:\n{_log(state)}")


async def _stop(process: asyncio.subprocess.Process, state: Path) -> None:
    """Ask it to stop, as systemd would; kill it where it doesn't."""
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), STOP_S)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise RuntimeError(f"the daemon was still there {STOP_S:.0f} s after SIGTERM:\n{_log(state)}") from None


def _log(state: Path) -> str:
    return (state / "log").read_text(errors="replace")[-4000:]
