"""An executor that does next to nothing, and writes down each start and each end: a program has an effect when it reaches its end.

`say` · `sleep 0.1` · `stream 3` writes three pieces · `print 3` so many bytes · `fail 3` exits with 3 · `lose 2` loses its
sandbox the first two times here. All print the mark of their start first, so that two runs of one job can't be taken for each other.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from runnerd import Event, Job, Language, Output, Result, SandboxLost, Started, Usage

_TURN_S, _LATE_S = 0.1, 0.5


class Ledger:
    """A file that outlives the daemon: each line is one write, which a SIGKILL leaves whole. All end with the time, in seconds."""

    def __init__(self, path: str, name: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._name = name
        self._starts = 0

    def start(self, job: str) -> str:
        """The mark of this start."""
        self._starts += 1
        mark = f"{self._name}.{self._starts}"
        self._write("start", job, mark)
        return mark

    def end(self, job: str, mark: str) -> None:
        self._write("end", job, mark)

    def lost(self, job: str, mark: str) -> None:
        self._write("lost", job, mark)

    async def watch(self) -> None:
        """Write down when this process had no turn for a while: others may have taken it for dead."""
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(_TURN_S)
            late_s = loop.time() - before - _TURN_S
            if late_s > _LATE_S:
                self._write("late", self._name, f"{late_s:.3f}")

    def _write(self, what: str, whose: str, more: str) -> None:
        os.write(self._file, f"{what} {whose} {more} {time.monotonic():.3f}\n".encode())


class NoopSandbox:
    """One start."""

    tenant = ""
    kept = False

    def __init__(self, executor: "NoopExecutor") -> None:
        self._executor = executor
        self._gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def lost(self) -> str:
        return await asyncio.shield(self._gone)

    async def run(self, job: Job, *_: object) -> AsyncIterator[Event]:
        ledger = self._executor.ledger
        mark = ledger.start(job.id)
        yield Started(id=job.id, stage="run")
        word, _, rest = (job.code or "").partition(" ")
        text = f"{mark}\n"
        match word:
            case "sleep":
                await asyncio.sleep(float(rest))
            case "stream":
                for number in range(int(rest)):
                    yield Output(id=job.id, stream="stdout", seq=number + 1, text=f"{mark} {number}\n")
                    await asyncio.sleep(0.002)
            case "print":
                text += "x" * int(rest)
            case "lose" if self._executor.lost(job.id) <= int(rest):
                ledger.lost(job.id, mark)
                self._gone.set_result("the sandbox blew up")
                raise SandboxLost("the sandbox blew up")
        ledger.end(job.id, mark)
        code = int(rest) if word == "fail" else 0
        yield Result(status="failed" if code else "ok", exit_code=code, stdout=text, usage=Usage(ran_ms=1.0))


class NoopExecutor:
    """Holds nothing that grows with the jobs that have ended, but for those that lose their sandbox."""

    name = "noop"
    level = "strong"

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._lost: Counter[str] = Counter()

    def lost(self, job: str) -> int:
        self._lost[job] += 1
        return self._lost[job]

    @asynccontextmanager
    async def sandbox(self, _language: Language) -> AsyncGenerator[NoopSandbox, None]:
        yield NoopSandbox(self)
