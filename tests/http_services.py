"""The HTTP ingress over a daemon that tests can look into: what a job's code says, it answers."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec

from runnerd import Event, Ingress, Job, Language, NotFound, Result, SandboxInfo, Sessions
from runnerd.plugins import find_plugins
from runnerd.spec import Delivery

KEY = "sk-0123456789abcdef"
Http = find_plugins().ingress["http"]

PYTHON = Language(
    code="py",
    name="Python",
    aliases=("python",),
    suffixes=(".py",),
    filename="main.py",
    run=("python3", "{file}"),
    image="python",
    version=("python3", "-V"),
    hello="print('hi')",
)


class HttpServices:
    """Answers each job with `results[job.code]`; the code `wait` waits until `release` is set."""

    languages: Mapping[str, Language] = {"py": PYTHON}
    sessions: Sessions | None = None

    def __init__(self, **results: Result | Exception) -> None:
        self.results: dict[str, Result | Exception] = dict(results)
        self.jobs: list[Job] = []
        self.cancelled: list[Job] = []
        self.arrived = asyncio.Event()
        self.ended = asyncio.Event()
        self.release = asyncio.Event()
        self.is_draining = False
        self.room = 4
        self.state: dict[str, Any] = {"level": "strong"}

    async def submit(self, job: Job | Delivery) -> AsyncIterator[Event]:
        assert isinstance(job, Job)
        self.jobs.append(job)
        self.arrived.set()
        try:
            if job.code == "wait":
                await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.append(job)
            raise
        finally:
            self.ended.set()
        said = self.results.get(job.code or "", ok())
        if isinstance(said, Exception):
            raise said
        yield said

    async def cancel(self, tenant: str, job_id: str, *, ahead: bool = False) -> Result | None:
        return None

    async def feed(self, tenant: str, job_id: str, data: bytes, *, end: bool = False) -> None:
        raise NotFound(f"there is no job {job_id} in hand here")

    async def answer(self, tenant: str, job_id: str, call: str, answer: bytes, *, failed: bool = False) -> None:
        raise NotFound(f"there is no job {job_id} in hand here")

    async def status(self, tenant: str, job_id: str) -> str | Result | None:
        return None

    def free(self) -> int:
        return self.room

    async def changed(self) -> None:
        await asyncio.Event().wait()

    def draining(self) -> bool:
        return self.is_draining

    def health(self) -> dict[str, Any]:
        return self.state

    def metrics(self) -> bytes:
        return b""

    def happened(self, event: str) -> None:
        pass

    async def asyncapi(self) -> dict[str, Any]:
        return {"asyncapi": "3.0.0"}


def ok(**fields: Any) -> Result:
    sandbox = SandboxInfo(executor="local", level="strong", warm=True)
    given = {"id": "j1", "tenant": "default", "lang": "py", "status": "ok", "stage": "run", "exit_code": 0, "sandbox": sandbox}
    return Result(**{**given, **fields})


def http(**settings: Any) -> Ingress:
    return msgspec.convert({"kind": "http", "port": 0, "api_key": KEY, **settings}, Http)


@asynccontextmanager
async def serving(services: HttpServices, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        http(**settings).open(services) as notice,
        httpx.AsyncClient(base_url=notice.split()[0], headers={"x-api-key": KEY}, timeout=30) as client,
    ):
        yield client


def address(client: httpx.AsyncClient) -> tuple[str, int]:
    assert client.base_url.port is not None
    return client.base_url.host, client.base_url.port


async def ask(client: httpx.AsyncClient, line: str, headers: list[str]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
    """Send a request's head with the key; returns once the answer's head is there."""
    reader, writer = await asyncio.open_connection(*address(client))
    lines = [f"{line} HTTP/1.1", "Host: localhost", f"x-api-key: {KEY}", *headers, "", ""]
    writer.write("\r\n".join(lines).encode())
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
    length = next((int(part.split(b":")[1]) for part in head.split(b"\r\n") if part.lower().startswith(b"content-length:")), 0)
    await reader.readexactly(length)
    return reader, writer, head


async def start(client: httpx.AsyncClient, asked: dict[str, str]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a job; doesn't wait for the answer."""
    reader, writer = await asyncio.open_connection(*address(client))
    body = json.dumps(asked)
    head = f"POST /exec HTTP/1.1\r\nHost: localhost\r\nx-api-key: {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write((head + body).encode())
    return reader, writer
