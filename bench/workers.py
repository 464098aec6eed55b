"""Processes that take jobs from a bus: the daemon, and what does the least that any worker has to do. One and the other in turn."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from . import machine
from .samples import Samples, p50

SLOTS = 16
RESULT = (
    '{"type":"result","v":1,"id":"0123456789abcdef","tenant":"bench","lang":"py","status":"ok","stage":"run","exit_code":0,'
    '"stdout":"hi\\n","usage":{"queued_ms":0.1,"ran_ms":0.1},"sandbox":{"executor":"noop","level":"strong","warm":true},"starts":1}'
)
"""What the bare ones answer: as large as the daemon's answer."""
START_S = 300.0
PATIENCE_S = 300.0
"""Only a worker that hangs takes so long, on however busy a machine."""

Once = Callable[[], Awaitable[float]]
Burst = Callable[[int], Awaitable[float]]


class Awaited:
    """Answers that are awaited, by their number."""

    def __init__(self) -> None:
        self._due = 0
        self._wrong = b""
        self._over = asyncio.Event()

    def expect(self, count: int) -> None:
        """So many will come."""
        self._due = count
        self._over.clear()

    def came(self, body: bytes) -> None:
        """One of them came."""
        if b'"status":"ok"' not in body:
            self._wrong = body[:500]
        self._due -= 1
        if self._wrong or self._due <= 0:
            self._over.set()

    async def all(self) -> None:
        """Wait for them. Raises RuntimeError where one is wrong or missing."""
        try:
            await asyncio.wait_for(self._over.wait(), PATIENCE_S)
        except TimeoutError:
            raise RuntimeError(f"{self._due} answers did not come") from None
        if self._wrong:
            raise RuntimeError(f"a job came to {self._wrong!r}")


class Worker:
    """A process that takes jobs."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.pid = process.pid
        self._process = process
        self._log = log

    def pause(self) -> None:
        """Have it take nothing, while its backlog is made."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Have it go on."""
        os.kill(self.pid, signal.SIGCONT)

    async def said(self, timeout_s: float = START_S) -> str:
        """Its next line. Raises RuntimeError with its log where there is none."""
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), timeout_s)
        except TimeoutError:
            line = b""
        if not line:
            raise RuntimeError(f"a worker says nothing:\n{self._log.read_text(errors='replace')[-4000:]}")
        return line.decode().strip()

    async def ask(self, line: str) -> str:
        """What it says to a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        return await self.said(600)


@asynccontextmanager
async def worker(directory: Path, module: str, *arguments: str) -> AsyncIterator[Worker]:
    """`python -m bench.<module>`, once it says that it is ready."""
    log = directory / f"{module}.log"
    argv = (sys.executable, "-m", f"bench.{module}", *arguments)
    with log.open("wb") as err:
        process = await asyncio.create_subprocess_exec(*argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=err)
    started = Worker(process, log)
    try:
        assert await started.said() == "ready"
        yield started
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 30)
        except TimeoutError:
            process.kill()
            await process.wait()


@dataclass(frozen=True)
class Side:
    """One of two that are compared."""

    name: str
    worker: Worker
    once: Once
    """Submit one job; milliseconds until its answer."""
    burst: Burst
    """Submit so many while nobody takes any, then let them be taken; seconds until the last answer."""


async def compare(samples: Samples, name: str, ours: Side, bare: Side, *others: Side, rounds: int, turns: int, jobs: int) -> None:
    """`<name>_p50_ratio` and `<name>_throughput_ratio`, all sides in turn, and what each does in a second and spends of the processor.

    The ratio of the throughputs is the median over all turns: whatever else the machine does meanwhile hits one turn or another.
    """
    sides = (ours, bare, *others)
    for side in sides:
        await side.burst(max(20, jobs // 5))
        await asyncio.sleep(0.2)
    for _ in range(rounds):
        for side in (ours, bare, ours, bare):
            samples.add(f"{side.name}_ms", await side.once())
            await asyncio.sleep(0.002)
    samples.result(f"{name}_p50_ratio", p50(samples.raw[f"{ours.name}_ms"]) / p50(samples.raw[f"{bare.name}_ms"]))
    spent = {side.name: 0.0 for side in sides}
    took: dict[str, list[float]] = {side.name: [] for side in sides}
    for _ in range(turns):
        for side in sides:
            before = machine.cpu_s(side.worker.pid)
            seconds = await side.burst(jobs)
            await asyncio.sleep(0.1)  # until the last acks are through
            took[side.name].append(seconds)
            spent[side.name] += machine.cpu_s(side.worker.pid) - before
            samples.add(f"{side.name}_per_s", jobs / seconds)
    samples.result(f"{name}_throughput_ratio", p50([b / a for a, b in zip(took[ours.name], took[bare.name], strict=True)]))
    for side in sides:
        samples.result(f"{side.name}_per_s", jobs / p50(took[side.name]))
        samples.result(f"{side.name}_cpu_ms_per_job", spent[side.name] * 1000 / (turns * jobs))


async def timed(act: Callable[[], Awaitable[object]]) -> float:
    """Milliseconds that it takes."""
    begin = time.perf_counter()
    await act()
    return (time.perf_counter() - begin) * 1000
