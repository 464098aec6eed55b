"""A daemon for tests of ingresses: it decodes and refuses as the real one does, and runs words instead of programs."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from msgspec.json import encode as encode_json

from ..arrival import Names, arrival, refusal
from ..errors import Conflict, Interrupted, NotFound, Rejected
from ..job import Event, Job, Output, Result, Started
from ..sessions import Sessions
from ..spec import Delivery, Language
from ..stdin import Stdin
from ..tools import Tools, ToolSettings


def _language(code: str, alias: str) -> Language:
    return Language(
        code=code, name=alias, aliases=(alias,), filename=f"main.{code}", run=("true",), image=code, version=("true",), hello="echo hi"
    )


class _Calls:
    """The one call of a job."""

    def __init__(self, job: Job) -> None:
        self.tools = Tools(job, ToolSettings(bytes=100_000))
        self.answered: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._name = (job.code or "").partition(" ")[2]
        self.tools.open(lambda line: self.answered.set_result(line.decode()))

    def begin(self) -> list[Event]:
        """Make it."""
        call = self.tools.heard(encode_json({"name": self._name, "arguments": {"n": 1}}))
        return [] if call is None else [call]


async def _read(stdin: Stdin) -> str:
    over = asyncio.Event()
    read = bytearray()

    async def write(data: bytes, end: bool) -> None:
        read.extend(data)
        if end:
            over.set()

    kept, ended = stdin.open(write)
    await write(kept, ended)
    await over.wait()
    return read.decode()


class FakeServices:
    """What an ingress may ask of the daemon (`Services`), in memory. A job's code is a line of words:

    `echo X` prints X and a newline · `given` prints the arguments and then standard input, a line each ·
    `exit 3` fails with that code · `wait` ends when the test calls `release` · `refuse` is rejected with the reason `code: not this one` ·
    `read` prints what comes on standard input, in an interactive job · `call X` calls the tool X with `{"n": 1}` and prints the answer
    """

    sessions: Sessions | None = None

    def __init__(self, slots: int = 64) -> None:
        languages = [_language("py", "python"), _language("js", "javascript")]
        self.languages: Mapping[str, Language] = {language.code: language for language in languages}
        self.ran: list[Job] = []
        """Jobs that began, as they were understood."""
        self.failures: list[Exception] = []
        """Raised in place of running a job, one for each that comes."""
        self.waiting = 0
        """Jobs that wait for `release`."""
        self._names = Names(self.languages, {alias: language.code for language in languages for alias in language.aliases})
        self._slots = slots
        self._tasks = 0
        self._draining = False
        self._released = asyncio.Event()
        self._changed = asyncio.Event()
        self._results: dict[tuple[str, str], Result] = {}
        self._inputs: dict[tuple[str, str], Stdin] = {}
        self._calls: dict[tuple[str, str], _Calls] = {}

    @property
    def reading(self) -> int:
        """Jobs that take standard input."""
        return len(self._inputs)

    def release(self) -> None:
        """Let all jobs that wait go on."""
        self._released.set()

    def drain(self) -> None:
        """Take no more jobs, as a daemon that stops."""
        self._draining = True
        self._changed.set()

    async def submit(self, job: Job | Delivery) -> AsyncGenerator[Event, None]:
        """See `Services.submit`."""
        if self._draining:
            raise Interrupted("this daemon is stopping and takes no more jobs")
        if self.failures:
            raise self.failures.pop(0)
        try:
            known = self._arrived(job)
        except Rejected as error:
            yield refusal(job, error)
            return
        self.ran.append(known)
        self._tasks += 1
        try:
            key = (known.tenant, known.id)
            if known.tools:
                self._calls[key] = _Calls(known)
                for event in self._calls[key].begin():
                    yield event
            if known.interactive:
                self._inputs[key] = Stdin(1 << 20)
            result = await self._result(known)
            if known.stream:
                yield Started(id=known.id, stage="run")
                yield Output(id=known.id, stream="stdout", seq=1, text=result.stdout)
            self._results[known.tenant, known.id] = result
            yield result
        finally:
            self._tasks -= 1
            self._calls.pop((known.tenant, known.id), None)
            self._inputs.pop((known.tenant, known.id), None)
            self._changed.set()

    async def cancel(self, tenant: str, job_id: str, *, ahead: bool = False) -> Result | None:  # noqa: ARG002 - nothing is cancelled here
        """See `Services.cancel`: no job is cancelled here."""
        return self._results.get((tenant, job_id))

    async def feed(self, tenant: str, job_id: str, data: bytes, *, end: bool = False) -> None:
        """See `Services.feed`."""
        self._check_talk(tenant, job_id)
        if (tenant, job_id) not in self._inputs:
            raise Rejected("interactive: the job was submitted without it")
        await self._inputs[tenant, job_id].feed(data, end=end)

    async def answer(self, tenant: str, job_id: str, call: str, answer: bytes, *, failed: bool = False) -> None:
        """See `Services.answer`."""
        self._check_talk(tenant, job_id)
        if (tenant, job_id) not in self._calls:
            raise Rejected("tools: the job was submitted without any")
        self._calls[tenant, job_id].tools.answer(call, answer, failed=failed)

    def _check_talk(self, tenant: str, job_id: str) -> None:
        if (tenant, job_id) in self._results:
            raise Conflict(f"job {job_id} has ended")
        if not any((job.tenant, job.id) == (tenant, job_id) for job in self.ran):
            raise NotFound(f"there is no job {job_id} in hand here")

    async def status(self, tenant: str, job_id: str) -> str | Result | None:
        """See `Services.status`."""
        return self._results.get((tenant, job_id))

    def free(self) -> int:
        """See `Services.free`."""
        return 0 if self._draining else max(0, self._slots - self._tasks)

    async def changed(self) -> None:
        """See `Services.changed`."""
        await self._changed.wait()
        self._changed.clear()

    def draining(self) -> bool:
        """See `Services.draining`."""
        return self._draining

    def health(self) -> dict[str, Any]:
        """See `Services.health`."""
        return {"running": self._tasks}

    def metrics(self) -> bytes:
        """See `Services.metrics`: nothing is counted."""
        return b""

    def happened(self, event: str) -> None:
        """See `Services.happened`."""

    async def asyncapi(self) -> dict[str, Any]:
        """See `Services.asyncapi`: it describes nothing."""
        return {"asyncapi": "3.0.0"}

    def _arrived(self, came: Job | Delivery) -> Job:
        job = arrival(came, self._names).job
        if job.code == "refuse":
            raise Rejected("code: not this one")
        return job

    async def _result(self, job: Job) -> Result:
        word, _, rest = (job.code or "").partition(" ")
        exit_code, stdout = 0, ""
        match word:
            case "echo":
                stdout = rest + "\n"
            case "given":
                stdout = "\n".join((*job.args, job.stdin.rstrip("\n"))) + "\n"
            case "exit":
                exit_code = int(rest)
            case "wait":
                self.waiting += 1
                try:
                    await self._released.wait()
                finally:
                    self.waiting -= 1
                stdout = "released\n"
            case "read":
                stdout = await _read(self._inputs[job.tenant, job.id])
            case "call":
                stdout = await self._calls[job.tenant, job.id].answered
        return Result(
            id=job.id,
            tenant=job.tenant,
            lang=job.lang,
            status="failed" if exit_code else "ok",
            stage="run",
            exit_code=exit_code,
            stdout=stdout,
        )
