"""Daemons that come and go: each place has one process at a time, and its processes' names are known afterwards."""

import asyncio
import signal
from pathlib import Path

from msgspec import Struct

from bench import machine
from chaos.processes import Daemon, Ended, Processes
from chaos.wire import Wire

START_S = 240.0


class Held(Struct, frozen=True, kw_only=True):
    """What a daemon holds."""

    files: int
    tasks: int
    threads: int
    children: int
    rss_mb: float


class Place:
    """Where one daemon is at a time, behind a wire of its own."""

    def __init__(self, number: int, processes: Processes, kind: str, directory: Path, flags: tuple[str, ...], wire: Wire) -> None:
        self.wire = wire
        self.name = ""
        self.lives = 0
        self._number = number
        self._processes = processes
        self._kind = kind
        self._directory = directory
        self._flags = flags
        self._daemon: Daemon | None = None

    @property
    def daemon(self) -> Daemon:
        assert self._daemon is not None
        return self._daemon

    async def begin(self) -> None:
        """Start a daemon, again and again where its bus or its store is away, and wait until it takes jobs."""
        async with asyncio.timeout(START_S):
            while True:
                self.lives += 1
                self.name = f"d{self._number}-{self.lives}"
                self._daemon = await self._processes.start(self.name, self._kind, self._directory, *self._flags)
                try:
                    await self._daemon.said("ready")
                except Ended:
                    await asyncio.sleep(0.3)
                else:
                    return

    async def held(self) -> Held:
        """What the daemon holds now."""
        self.daemon.signal(signal.SIGUSR1)
        tasks, pid = int(await self.daemon.said("tasks")), self.daemon.pid
        return Held(
            tasks=tasks,
            files=machine.open_files(pid),
            threads=machine.threads(pid),
            children=len(machine.descendants(pid)),
            rss_mb=machine.rss_bytes(pid) / 1e6,
        )

    async def kill(self) -> None:
        self.daemon.signal(signal.SIGKILL)
        await self.daemon.over()

    async def drain(self) -> int:
        """Its exit code."""
        self.daemon.signal(signal.SIGTERM)
        return await self.daemon.over()

    def stop(self) -> None:
        self.daemon.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.daemon.signal(signal.SIGCONT)
