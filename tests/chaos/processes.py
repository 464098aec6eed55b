"""Processes of daemons, forked from one that has imported what they need: so a start costs little on a busy machine."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

TESTS = Path(__file__).parent.parent
ANSWER_S = 240.0


class Ended(Exception):
    """A process ended where it was to say something."""


class Daemon:
    """One process."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pid = 0
        self.code: int | None = None
        """How it ended, None where it lives."""
        self._ended = asyncio.Event()
        self._said: asyncio.Queue[list[str]] = asyncio.Queue()

    def hear(self, words: list[str]) -> None:
        if words[0] == "pid":
            self.pid = int(words[1])
        elif words[0] == "ended":
            self.code = int(words[1])
            self._ended.set()
        self._said.put_nowait(words)

    async def said(self, first: str) -> str:
        """What it says next after this word. Raises Ended."""
        async with asyncio.timeout(ANSWER_S):
            while True:
                words = await self._said.get()
                if words[0] == first:
                    return words[-1]
                if words[0] == "ended":
                    raise Ended(f"{self.name} ended with {words[1]}")

    def signal(self, number: signal.Signals) -> None:
        if self.code is None:
            os.kill(self.pid, number)

    async def over(self) -> int:
        """Its exit code, when it has ended."""
        async with asyncio.timeout(ANSWER_S):
            await self._ended.wait()
        assert self.code is not None
        return self.code


class Processes:
    """Starts them."""

    def __init__(self, parent: asyncio.subprocess.Process) -> None:
        self._parent = parent
        self._daemons: dict[str, Daemon] = {}

    async def start(self, name: str, kind: str, directory: Path, *flags: str) -> Daemon:
        """Start a daemon; it has a process, and is not ready yet."""
        assert self._parent.stdin is not None
        daemon = self._daemons[name] = Daemon(name)
        self._parent.stdin.write((json.dumps([name, kind, str(directory), *flags]) + "\n").encode())
        await daemon.said("pid")
        return daemon

    async def listen(self) -> None:
        """Hear what they say, until the parent is gone."""
        assert self._parent.stdout is not None
        while line := await self._parent.stdout.readline():
            name, *words = line.decode().split()
            self._daemons[name].hear(words)


@asynccontextmanager
async def processes(directory: Path) -> AsyncIterator[Processes]:
    """While the block is open; those that live are killed at its end."""
    with (directory / "log").open("ab") as log:
        parent = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-W", "error", str(TESTS / "chaos" / "daemon.py")),
            env={"PATH": os.environ["PATH"], "HOME": str(directory), "PYTHONPATH": str(TESTS)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )
    made = Processes(parent)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(made.listen())
        try:
            yield made
        finally:
            for daemon in made._daemons.values():
                daemon.signal(signal.SIGCONT)
                daemon.signal(signal.SIGKILL)
            for daemon in made._daemons.values():
                if daemon.pid:
                    await daemon.over()
            assert parent.stdin is not None
            parent.stdin.close()
            await parent.wait()
