"""What the machine does bare: the denominators of all ratios."""

import asyncio
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import nats
from nats.aio.client import Client

PY = os.path.realpath("/usr/bin/python3")
"""The interpreter that sandboxes use, resolved, never a shim."""
SNIPPET = 'print("hi")'
BARE = (PY, "-I", "-S", "-c", SNIPPET)
BWRAP = (
    "bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--clearenv",
    "--ro-bind", "/usr", "/usr", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64", "--symlink", "usr/bin", "/bin",
    "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp",
)  # fmt: skip
WRAPPED = (*BWRAP, *BARE)

FORKS = """
import os, time
for _ in range(20):
    begin = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    print((time.perf_counter() - begin) * 1000)
"""

ECHO = """
import asyncio, sys
import nats
async def main():
    client = await nats.connect(sys.argv[1])
    async def answer(message):
        await client.publish(message.reply, message.data)
    await client.subscribe("bench.echo", cb=answer)
    await client.flush()
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
asyncio.run(main())
"""


def have_bwrap() -> bool:
    """Whether bubblewrap is installed."""
    return shutil.which("bwrap") is not None


async def start(argv: Sequence[str], want: bytes = b"hi\n") -> float:
    """Start a program, read its output, wait for its end. Milliseconds. Raises RuntimeError for another output."""
    begin = time.perf_counter()
    process = await asyncio.create_subprocess_exec(*argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, env={})
    output, _ = await process.communicate()
    elapsed = (time.perf_counter() - begin) * 1000
    if output != want or process.returncode != 0:
        raise RuntimeError(f"{argv[0]} answered {output!r}, exit code {process.returncode}")
    return elapsed


async def forks() -> list[float]:
    """Twenty times fork, exit, wait, in a small process of the same interpreter. Milliseconds each."""
    process = await asyncio.create_subprocess_exec(PY, "-I", "-S", "-c", FORKS, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    return [float(line) for line in output.split()]


@asynccontextmanager
async def echo(url: str) -> AsyncIterator[None]:
    """A process that answers each message on `bench.echo` with its own body."""
    argv = (sys.executable, "-c", ECHO, url)
    process = await asyncio.create_subprocess_exec(*argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        await process.stdout.readline()
        yield
    finally:
        process.stdin.close()
        await process.wait()


async def round_trip(client: Client) -> float:
    """One request and its echo over NATS. Milliseconds."""
    begin = time.perf_counter()
    await client.request("bench.echo", b"x" * 256, timeout=10)
    return (time.perf_counter() - begin) * 1000


async def connect(url: str) -> Client:
    """A client as a submitter would use it."""
    return await nats.connect(url, allow_reconnect=False, connect_timeout=5)
