"""Daemons that come and go: each place has one process at a time, and its processes' names are known afterwards."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from pathlib import Path

from msgspec import Struct

from bench import machine
from chaos.wire import Wire
from nats_fixture import wait_until

TESTS = Path(__file__).parent.parent
START_S, STOP_S = 60.0, 60.0


class Held(Struct, frozen=True, kw_only=True):
    """What a daemon holds."""

    files: int
    tasks: int
    threads: int
    children: int
    rss_mb: float


class Place:
    """Where one daemon is at a time, behind a wire of its own."""

    def __init__(self, number: int, kind: str, directory: Path, flags: tuple[str, ...], wire: Wire) -> None:
        self.wire = wire
        self.struck: set[str] = set()
        """Names of processes that were killed, stopped or cut off: they may have left starts without an end."""
        self.name = ""
        self.lives = 0
        self._number = number
        self._kind = kind
        self._directory = directory
        self._flags = flags
        self._process: Process | None = None

    @property
    def process(self) -> Process:
        assert self._process is not None
        return self._process

    async def start(self) -> None:
        """Start a daemon, and wait until it takes jobs."""
        self.lives += 1
        self.name = f"d{self._number}-{self.lives}"
        argv = [str(TESTS / "chaos" / "daemon.py"), self._kind, str(self._directory), self.name, *self._flags]
        with (self._directory / "log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-W", "error", *argv),
                env={"PATH": os.environ["PATH"], "HOME": str(self._directory), "PYTHONPATH": str(TESTS)},
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        await self._line("ready")

    async def begin(self) -> None:
        """Start a daemon, again and again where its bus or its store is away."""
        async with asyncio.timeout(START_S):
            while True:
                try:
                    return await self.start()
                except EOFError:
                    await asyncio.sleep(0.3)

    async def _line(self, first: str) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(START_S):
            line = (await self.process.stdout.readline()).decode()
        if not line.startswith(first):
            await self.process.wait()
            raise EOFError(f"{self.name} ended with {self.process.returncode}")
        return line.removeprefix(first).strip()

    async def held(self) -> Held:
        """What the daemon holds now."""
        pid = self.process.pid
        self.process.send_signal(signal.SIGUSR1)
        return Held(
            tasks=int(await self._line("tasks")),
            files=machine.open_files(pid),
            threads=machine.threads(pid),
            children=len(machine.descendants(pid)),
            rss_mb=machine.rss_bytes(pid) / 1e6,
        )

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.communicate()

    async def drain(self) -> int:
        """Its exit code."""
        self.process.terminate()
        async with asyncio.timeout(STOP_S):
            await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    async def close(self) -> None:
        if self._process is not None:
            await self.kill()
            await wait_until(lambda: not machine.open_files(self.process.pid), "the daemon is gone")
