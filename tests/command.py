"""The command line as a program, as its user has it: arguments, standard input, signals; what it says and exits with."""

import asyncio
import os
import sys
from pathlib import Path

import msgspec


class Ended(msgspec.Struct):
    code: int
    out: str
    err: str


async def runnerd(*args: str, stdin: bytes = b"", cwd: Path | None = None, **env: str) -> Ended:
    """Run it to its end."""
    return await ended(await started(*args, cwd=cwd, **env), stdin)


async def ended(process: asyncio.subprocess.Process, stdin: bytes = b"") -> Ended:
    """Wait for its end."""
    out, err = await asyncio.wait_for(process.communicate(stdin), 120)
    assert process.returncode is not None
    assert b"Traceback" not in err, err.decode()
    return Ended(process.returncode, out.decode(), err.decode())


async def started(
    *args: str, stdout: int = asyncio.subprocess.PIPE, cwd: Path | None = None, session: bool = False, **env: str
) -> asyncio.subprocess.Process:
    """Start it, without what our own environment says of buses."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RUNNERD_", "NATS_", "RABBITMQ_"))}
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "runnerd",
        *args,
        stdin=pipe,
        stdout=stdout,
        stderr=pipe,
        env={**clean, "COLUMNS": "200", **env},
        cwd=cwd,
        start_new_session=session,
    )


async def said(process: asyncio.subprocess.Process, words: str) -> str:
    """Read its standard error up to a line with these words; that line."""
    assert process.stderr is not None
    async with asyncio.timeout(120):
        while line := (await process.stderr.readline()).decode():
            if words in line:
                return line
    raise AssertionError(f"it ended before it said {words!r}")
