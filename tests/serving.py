"""`runnerd serve` as a process, on ports and a state directory of its own."""

import asyncio
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

RUNNERD = (sys.executable, "-m", "runnerd")
FREE_PORTS = ("ingress.nats.listen=127.0.0.1:0", "ingress.http.port=0")
START_S = 60.0
STOP_S = 60.0


class Serving:
    """A daemon that takes jobs."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.said: dict[str, str] = {}
        """What it printed at its start, by the first word of each line."""

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Tell it to stop; its exit code and all that it printed since its start."""
        self.process.send_signal(number)
        return await self.ended()

    async def ended(self) -> tuple[int, str]:
        """Wait until it has ended by itself."""
        assert self.process.stdout is not None
        async with asyncio.timeout(STOP_S):
            rest = await self.process.stdout.read()
            return await self.process.wait(), rest.decode()

    async def until(self, word: str) -> None:
        """Read what it prints at its start, up to the line that begins with `word`."""
        assert self.process.stdout is not None
        async with asyncio.timeout(START_S):
            while word not in self.said:
                line = (await self.process.stdout.readline()).decode()
                assert line, f"it ended before it said {word!r}: {self.said}"
                first, _, rest = line.strip().partition(" ")
                self.said[first] = rest.strip()


@asynccontextmanager
async def serving(
    state: Path, *flags: str, command: Sequence[str | Path] = RUNNERD, environ: Mapping[str, str] | None = None
) -> AsyncIterator[Serving]:
    """A daemon whose working directory and home is `state`; killed at the end if it is still there."""
    state.mkdir(parents=True, exist_ok=True)
    argv = [*map(str, command), "serve"]
    for flag in (*FREE_PORTS, f"state_dir={state}/state", "log.format=json", f"log.file={state}/log", *flags):
        argv += ["--set", flag]
    with (state / "stderr").open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *argv,
            cwd=state,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(state), "PYTHONWARNINGS": "error", **(environ or {})},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
        )
    running = Serving(process)
    try:
        await running.until("state")
        yield running
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        if process.stdout is not None:
            await process.stdout.read()
        print((state / "stderr").read_text())
