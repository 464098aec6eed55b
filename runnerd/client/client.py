"""Submits jobs, waits for them, and asks about them, on any bus."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

import msgspec
from msgspec.structs import replace

from ..codec import MSGPACK, encode
from ..errors import IngressError, Saturated
from ..job import TOKEN, Event, Job, Result, ToolCall, new_id
from .answers import Tool
from .bus import Bus
from .patience import LanguageInfo, Patience
from .submission import Submission, followed, result_of, submitted


class Client:
    """Submits jobs and asks about them; made by one of the connects. Any number of jobs may be under way at once."""

    def __init__(self, bus: Bus, *, tenant: str, patience: Patience) -> None:
        self._bus = bus
        self._tenant = tenant
        self._patience = patience
        self._codes: dict[str, str] | None = None

    @asynccontextmanager
    async def submit(self, job: Job, *, stream: bool = False, tools: Mapping[str, Tool] | None = None) -> AsyncIterator[Submission]:
        """Hand a job in: `async with client.submit(job) as submission`, which has its id, `events()` and `result()`.

        The block begins when the job was sent and, on a bus that keeps jobs, is kept. Leaving the block does not cancel it.
        Given again, with the id that it had, it is not run again and has the same result. `stream`: with its events.
        `tools`: what it may call, each a coroutine function, which answers while `events()` or `result()` is awaited.

        Raises Saturated where nobody takes the job, IngressError where the bus can't be reached.
        """
        job = await self._ready(job, stream=stream, tools=tuple(tools or ()))
        body = encode(job, MSGPACK)
        async with submitted(job, body, self._bus, self._patience, stream=stream, tools=tools or {}) as submission:
            yield submission

    async def run(self, job: Job, *, tools: Mapping[str, Tool] | None = None) -> Result:
        """Run a job and return its result. Cancelling this does not cancel the job: see `cancel`.

        `tools` as for `submit`. Raises Saturated where no daemon takes the job, RunnerdError where one failed to handle it.
        """
        async with self.submit(job, tools=tools) as submission:
            return await submission.result()

    async def stream(self, job: Job, *, tools: Mapping[str, Tool] | None = None) -> AsyncGenerator[Event]:
        """Run a job; its events come as they happen, its Result last. Raises what `run` raises.

        Events may be lost on the way, which a gap in `Output.seq` shows; the result has the whole output. Leaving the
        iterator does not cancel the job. `tools` as for `submit`.
        """
        async with self.submit(job, stream=True, tools=tools) as submission, aclosing(submission.events()) as events:
            async for event in events:
                yield event

    async def wait(self, job_id: str, tenant: str = "") -> Result:
        """Wait for the result of a job that was submitted before, by anybody, on a bus that keeps jobs also of one that none has seen yet.

        Waits as long as it takes, so bound it: `async with asyncio.timeout(60)`. Raises IngressError without a connection.
        """
        async with aclosing(self.tail(job_id, tenant)) as events:
            return await result_of(events)

    def tail(self, job_id: str, tenant: str = "") -> AsyncGenerator[Event]:
        """Events of a job that was submitted before, as far as its bus has them; its Result last.

        JetStream stores the events of jobs that were submitted with `stream`, so that they come from the beginning; RabbitMQ
        has them from now on.
        """
        return followed(self._bus, tenant or self._tenant, _token(job_id), self._patience)

    async def cancel(self, job_id: str, tenant: str = "") -> Result | None:
        """Cancel a job and return its result, or an ended job's own; None where there is no such job."""
        answer = await self._bus.ask(tenant or self._tenant, _token(job_id), "cancel")
        return answer if isinstance(answer, Result) else None

    async def status(self, job_id: str, tenant: str = "") -> str | Result | None:
        """`queued`, `running`, `scheduled`, the result of a job that ended, or None where no daemon knows such a job."""
        return await self._bus.ask(tenant or self._tenant, _token(job_id), "status")

    async def feed(self, job_id: str, data: bytes, *, end: bool = False, tenant: str = "", timeout_s: float = 60.0) -> None:
        """Add to the standard input of an interactive job that runs; `end` after the last of it. Returns when its program has room for it.

        Send a piece when the one before was taken. Raises Saturated where no daemon says in time that it was: nobody has the job,
        or its program does not read; Conflict where the job has ended, Rejected where it is not interactive.
        """
        await self._bus.feed(tenant or self._tenant, _token(job_id), data, end=end, timeout_s=timeout_s)

    async def answer(self, call: ToolCall, answer: Any = None, *, error: str = "") -> None:
        """Answer a call of a tool with what can be written as JSON, or with an `error`, for who takes calls from `Submission.events`.

        Raises Saturated where no daemon says that it has the answer: it may be sent again; Conflict where nobody waits for it.
        """
        said = error.encode(errors="replace") if error else msgspec.json.encode(answer)
        await self._bus.answer(call.tenant, call.id, call.call, said, failed=bool(error))

    async def languages(self) -> tuple[LanguageInfo, ...]:
        """The languages of a daemon; none where the bus has no way to ask. Raises Saturated where no daemon answers."""
        return await self._bus.languages()

    async def _ready(self, job: Job, *, stream: bool, tools: tuple[str, ...]) -> Job:
        """The job with its id, its tenant, and its language's code."""
        lang = await self._code(job.lang)
        return replace(job, id=job.id or new_id(), tenant=job.tenant or self._tenant, lang=lang, stream=stream, tools=job.tools or tools)

    async def _code(self, lang: str) -> str:
        """The code of a language that may be named by an alias. Unknown ones pass: the daemon has the word, and its list."""
        if self._codes is None:
            try:
                found = await self.languages()
            except (Saturated, IngressError):  # sending it tells what is wrong
                return lang
            self._codes = {name.lower(): language.code for language in found for name in (language.code, *language.aliases)}
        return self._codes.get(lang.lower(), lang)


def _token(job_id: str) -> str:
    """The id, as it may stand in a subject. Raises ValueError."""
    if not TOKEN.fullmatch(job_id):
        raise ValueError(f"job id {job_id[:80]!r} must match {TOKEN.pattern}")
    return job_id
