"""The process of the embedded nats-server, and its successors."""

import asyncio
import contextlib
import json
import os
import sys
from typing import TYPE_CHECKING

import anyio

from runnerd import Counters, IngressError

from .log import log

if TYPE_CHECKING:
    from .server import Server

_BORN_WITH_PARENT = """
import ctypes, os, sys
parent, program = int(sys.argv[1]), sys.argv[2]
ctypes.CDLL(None).prctl(1, 15, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGTERM
if os.getppid() == parent:
    os.execve(program, sys.argv[2:], {"PATH": os.environ["PATH"]})
"""
"""Becomes the server, told by the kernel to end when its parent does, even by SIGKILL. Dies where that was too late."""

_LOOK_S = 0.02
"""How often a server that starts is tried: it tells nobody when it listens."""
_RESTART_FIRST_S = 0.2


class Child:
    """A server that runs: started, watched and stopped."""

    def __init__(self, server: "Server", program: str, host: str, port: int, *, lock: int, counters: Counters) -> None:
        self._server = server
        self._program = program
        self._host = host
        self._port = port
        self._lock = lock
        self._counters = counters
        self._name = f"runnerd-{os.getpid()}-{os.urandom(4).hex()}"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Where clients on this machine connect to."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)  # noqa: S104 - compared, not bound
        return f"nats://[{host}]:{self._port}" if ":" in host else f"nats://{host}:{self._port}"

    async def start(self) -> None:
        """Start the server and wait until it answers. Raises IngressError with the end of what it said."""
        for old in self._server.directory.glob("nats-server_*.ports"):  # of servers that were killed
            old.unlink(missing_ok=True)
        config = self._server.write_config(self._host, self._port, self._name)
        errors = os.open(self._server.directory / "nats-server.err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            arguments = ["-I", "-S", "-c", _BORN_WITH_PARENT, str(os.getpid()), self._program, "-c", str(config)]
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=errors,
                env={"PATH": os.environ.get("PATH", "")},
                pass_fds=(self._lock,),
                start_new_session=True,  # the terminal's Ctrl-C is for the daemon, which then drains
            )
        finally:
            os.close(errors)
        with anyio.move_on_after(self._server.start_s):
            while self._process.returncode is None:
                if await self._answers():
                    return
                await anyio.sleep(_LOOK_S)
        await self.stop()
        raise IngressError(f"nats-server on {self._server.listen} did not start: {self._last_words()}")

    async def keep(self) -> None:
        """Start the server again whenever it ends."""
        loop = asyncio.get_running_loop()
        pause = _RESTART_FIRST_S
        while True:
            began = loop.time()
            assert self._process is not None
            code = await self._process.wait()
            if loop.time() - began > self._server.restart_s:
                pause = _RESTART_FIRST_S
            self._counters.count("server_restarts", exit_code=code)
            await anyio.sleep(pause)
            pause = min(pause * 2, self._server.restart_s)
            try:
                await self.start()
            except IngressError as error:
                log.warning("nats-server can't be started again", error=str(error))

    async def stop(self) -> None:
        """End the server: politely, then not."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with anyio.move_on_after(self._server.stop_s):
            await process.wait()
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _answers(self) -> bool:
        """Whether our server, and not another that was faster, answers on the port."""
        if not self._port and not self._read_port():
            return False
        host = "127.0.0.1" if self._host == "0.0.0.0" else self._host  # noqa: S104 - compared, not bound
        try:
            async with asyncio.timeout(1):
                reader, writer = await asyncio.open_connection(host, self._port)
                try:
                    return f'"{self._name}"'.encode() in await reader.readline()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False

    def _read_port(self) -> bool:
        """Read which port was free, and keep to it from now on: clients connect to it again after a crash."""
        assert self._process is not None
        ports = self._server.directory / f"nats-server_{self._process.pid}.ports"
        try:
            urls = json.loads(ports.read_text())["nats"]
        except (OSError, ValueError):
            return False
        self._port = int(urls[0].rpartition(":")[2])
        return True

    def _last_words(self) -> str:
        words = ""
        for name in ("nats-server.err", "nats-server.log"):
            with contextlib.suppress(OSError):
                words = (self._server.directory / name).read_text(errors="replace").strip() or words
        lines = [line for line in words.splitlines() if "[FTL]" in line or "[ERR]" in line] or words.splitlines()
        return lines[-1] if lines else "it said nothing"
