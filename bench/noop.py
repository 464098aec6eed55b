"""`python -m bench.noop KIND key=value …`: a daemon of one ingress whose sandboxes run nothing. The measures of the bus start it.

Says `ready`, then obeys a line of its input at a time: `direct N SLOTS CODE` submits so many jobs to the scheduler, so many at once and
past any bus, and says how many seconds that took. Its input's end ends it. With `--real`, sandboxes are real.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import nats
from nats.aio.client import Client

from runnerd import Event, Job, Language, Output, Result, Started, Usage
from runnerd.config import load_config
from runnerd.daemon import Daemon, open_daemon
from runnerd.heap import keep_objects
from runnerd.log import open_log
from runnerd.plugins import find_plugins

TENANT = "bench"
"""Whose jobs all of them are: a sandbox of another tenant's would have to be rebuilt."""


class NoopSandbox:
    """Ends at once. Where the code is `first URL SUBJECT`, writes a byte, and publishes one past the daemon in the same instant."""

    tenant = ""
    kept = False

    def __init__(self, executor: "NoopExecutor") -> None:
        self._executor = executor

    async def lost(self) -> str:
        """Never."""
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    async def run(self, job: Job, *_ignored: object) -> AsyncIterator[Event]:
        """See `Sandbox.run`."""
        yield Started(id=job.id, stage="run")
        word, _, rest = (job.code or "").partition(" ")
        if word == "first":
            url, _, subject = rest.partition(" ")
            client = await self._executor.connected(url)
            await client.publish(subject, b"")
            yield Output(id=job.id, stream="stdout", seq=1, text="x")
        yield Result(status="ok", exit_code=0, stage="run", stdout="x" if word == "first" else "hi\n", usage=Usage(ran_ms=0.0))


class NoopExecutor:
    """Makes sandboxes of nothing."""

    name = "noop"
    level = "strong"

    def __init__(self) -> None:
        self._client: Client | None = None

    @asynccontextmanager
    async def sandbox(self, _language: Language) -> AsyncIterator[NoopSandbox]:
        """One of them."""
        yield NoopSandbox(self)

    async def connected(self, url: str) -> Client:
        """A connection that the daemon knows nothing of."""
        if self._client is None:
            self._client = await nats.connect(url, connect_timeout=60)
        return self._client


async def main(kind: str, *settings: str) -> None:
    """Serve until the input ends."""
    real = "--real" in settings
    flags = [f"ingress.{kind}.enabled=yes", *(setting for setting in settings if setting != "--real")]
    plugins = find_plugins()
    read = load_config(plugins, flags=flags, environ={}, directory=Path.cwd()).settings
    read = msgspec.structs.replace(read, ingress={kind: read.ingress[kind]})

    @asynccontextmanager
    async def given(*_: Any) -> AsyncIterator[NoopExecutor]:
        yield NoopExecutor()

    with open_log(read.log):
        opening = open_daemon(read, plugins) if real else open_daemon(read, plugins, open_executor=given)
        async with opening as daemon:
            keep_objects()
            print("ready", flush=True)
            while line := await asyncio.to_thread(sys.stdin.readline):
                _, count, slots, code = line.rstrip("\n").split(" ", 3)
                print(f"{await _direct(daemon, int(count), int(slots), code):.6f}", flush=True)


async def _direct(daemon: Daemon, count: int, slots: int, code: str) -> float:
    """Seconds that `count` jobs take, `slots` of them at once."""
    begin, left = time.perf_counter(), count

    async def submitter() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            async with aclosing(daemon.submit(Job(tenant=TENANT, lang="py", code=code))) as events:
                async for event in events:
                    assert not isinstance(event, Result) or event.status == "ok", event

    async with asyncio.TaskGroup() as tasks:
        for _ in range(slots):
            tasks.create_task(submitter())
    return time.perf_counter() - begin


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
