"""A daemon that HTTP tests can look into: what a job's code says, it answers."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from runnerd import Event, Job, Language, Result, SandboxInfo
from runnerd.spec import Delivery

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

    async def cancel(self, tenant: str, job_id: str) -> Result | None:
        return None

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


def ok(**fields: Any) -> Result:
    sandbox = SandboxInfo(executor="local", level="strong", warm=True)
    given = {"id": "j1", "tenant": "default", "lang": "py", "status": "ok", "stage": "run", "exit_code": 0, "sandbox": sandbox}
    return Result(**{**given, **fields})
