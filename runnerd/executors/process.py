"""The agent of this machine as a process: its first words, its heartbeat, its end."""

import asyncio
import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import structlog

from ..agent.orders import BEAT_S
from ..errors import SandboxError

START_S = 30.0
"""How long an agent may take to start: with the `data` profile it imports for seconds."""
STOP_S = 5.0
"""How long it may take to end when it is asked to."""

log = structlog.get_logger("runnerd.local")


class AgentProcess:
    """One agent and what it said of itself."""

    def __init__(self, process: asyncio.subprocess.Process, socket: Path) -> None:
        assert process.stdout is not None
        self.socket = socket
        self.description: dict[str, Any] = {}
        self._process = process
        self._words = process.stdout

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """As a shell tells it, a signal as a negative number; None while it lives."""
        return self._process.returncode

    async def ready(self) -> None:
        """Wait until it can be connected to. Raises SandboxError with the reason where it will not be."""
        try:
            async with asyncio.timeout(START_S):
                line = await self._words.readline()
        except TimeoutError:
            raise SandboxError(f"the agent did not start within {START_S:g} s") from None
        word, _, rest = line.decode(errors="replace").strip().partition(" ")
        if word != "ready":
            raise SandboxError(rest or "the agent ended without a word")
        self.description = json.loads(rest)

    async def ended(self) -> None:
        """Wait until it has ended."""
        await self._process.wait()

    async def silent(self, patience_s: float) -> None:
        """Wait until it has ended; after so many seconds without a beat of its heart it is killed, and with it all that it started."""
        while await self._beats(patience_s) or await self._beats(2 * BEAT_S):  # again: it may have been we who stood still
            pass
        if self.exit_code is None and not self._words.at_eof():
            log.error("agent hangs, and is killed", pid=self.pid, silent_s=patience_s)
            self._kill()
        await self.ended()

    async def _beats(self, patience_s: float) -> bool:
        try:
            async with asyncio.timeout(patience_s):
                words = await self._words.read(4096)
        except TimeoutError:
            return False
        if words.strip():
            log.warning("the agent says", pid=self.pid, words=words.decode(errors="replace").strip())
        return bool(words)

    async def end(self) -> None:
        """Have it end, and wait for that."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(STOP_S):  # not wait_for: before Python 3.12 it swallows a cancellation that comes with the end
                await self.ended()
        except TimeoutError:
            self._kill()
            await self.ended()
        shutil.rmtree(self.socket.parent, ignore_errors=True)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
