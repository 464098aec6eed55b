"""One job until its result: sends it, takes its events, and asks for it when they stop coming."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager

from ..errors import Conflict, IngressError, NotFound, RunnerdError, Saturated
from ..job import Event, Job, Result, ToolCall
from .answers import Answers, Tool, open_answers
from .bus import Bus, Lane, Lost
from .patience import Patience
from .pauses import LONGEST_PAUSE_S, Pauses


class Submission:
    """A job that was handed in; made by `Client.submit`. Leaving its block does not cancel the job."""

    def __init__(
        self, job: Job, bus: Bus, lane: Lane | None, patience: Patience, *, answers: Answers | None = None, ended: Result | None = None
    ) -> None:
        self._answers = answers
        self.id = job.id
        self.tenant = job.tenant
        self._bus = bus
        self._lane = lane
        self._patience = patience
        self._pauses = Pauses(patience, patience.refused_s)
        self._ended = ended
        self._runs = False
        """Whether the job is known to run: before that, nobody may have it who could take input."""

    @property
    def ended(self) -> Result | None:
        """The result, where it is here already: at the beginning only of a job that the bus can't carry, and that was not sent."""
        return self._ended

    async def result(self) -> Result:
        """Wait for the result. Cancelling this does not cancel the job.

        Raises Saturated where no daemon takes the job, IngressError without a connection, RunnerdError where a daemon failed.
        """
        if self._ended is None:
            async for event in self.events():
                if isinstance(event, Result):
                    return event
        assert self._ended is not None
        return self._ended

    async def events(self) -> AsyncGenerator[Event]:
        """Events as they happen, where the job was submitted with `stream`; its Result last. Raises what `result` raises.

        Events may be lost on the way, which a gap in `Output.seq` shows; the result has the whole output. Calls of tools are among
        them, but for those of the tools that it was submitted with: they are answered here.
        """
        while self._ended is None:
            event = await self._next()
            if event is not None:
                self._pauses.alive()
                self._runs = True
                if isinstance(event, Result):
                    self._ended = event
                    break
                if not (isinstance(event, ToolCall) and self._answers is not None and self._answers.take(event)):
                    yield event
        yield self._ended

    async def feed(self, data: bytes, *, end: bool = False, timeout_s: float = 60.0) -> None:
        """Add to the job's standard input, once it runs; see `Client.feed`."""
        pauses = Pauses(self._patience, timeout_s)
        while not self._runs:
            known = await self._bus.ask(self.tenant, self.id, "status")
            if isinstance(known, Result):
                raise Conflict(f"job {self.id} has ended")
            self._runs = known == "running"
            if not self._runs:
                await pauses.after(Saturated(f"the job does not run yet: it is {known or 'nowhere'}"))
        await self._bus.feed(self.tenant, self.id, data, end=end, timeout_s=timeout_s)

    async def send(self) -> None:
        """Send the job until the bus has it. Raises Saturated, and IngressError where there is no connection."""
        sent_s = self._patience.sent_s
        await self._send(Pauses(self._patience, self._patience.refused_s if sent_s is None else sent_s))
        self._pauses.alive()

    async def _send(self, pauses: Pauses) -> None:
        assert self._lane is not None
        while True:
            try:
                await self._lane.send()
            except (Saturated, Lost) as error:
                await pauses.after(error)
            else:
                return

    async def _next(self) -> Event | None:
        """The next event; None where there is none yet, or where the job had to be sent again."""
        assert self._lane is not None
        try:
            event = await self._lane.receive(self._patience.silence_s)
        except (Lost, Saturated) as error:
            await self._again(error)
        else:
            return event if event is not None else await self._inquire()
        return None

    async def _inquire(self) -> Event | None:
        """Ask what became of the job; where nobody knows it, it or its answer was lost."""
        try:
            known = await self._bus.ask(self.tenant, self.id, "status")
        except (Saturated, Lost) as error:
            if not self._bus.keeps:
                await self._again(error)
            elif isinstance(error, Lost):
                await self._pauses.after(error)
            else:  # a daemon may come later
                self._pauses.alive()
            return None
        if isinstance(known, Result):
            return known
        if known is None and not self._bus.keeps:
            await self._again(Saturated("no daemon knows the job"))
        else:
            self._pauses.alive()
        return None

    async def _again(self, error: RunnerdError) -> None:
        await self._pauses.after(error)
        await self._send(self._pauses)


@asynccontextmanager
async def submitted(
    job: Job, body: bytes, bus: Bus, patience: Patience, *, stream: bool, tools: Mapping[str, Tool]
) -> AsyncIterator[Submission]:
    """Hand a job in; its events are heard while the block is open. Raises Saturated and IngressError."""
    problem = bus.problem(job, body)
    if problem:
        refused = Result(id=job.id, tenant=job.tenant, lang=job.lang, status="rejected", reason=problem)
        yield Submission(job, bus, None, patience, ended=refused)
        return
    async with open_answers(bus, patience, tools) as answers, bus.lane(job, body, stream=stream) as lane:
        submission = Submission(job, bus, lane, patience, answers=answers)
        await submission.send()
        yield submission


async def followed(bus: Bus, tenant: str, job_id: str, patience: Patience) -> AsyncGenerator[Event]:
    """Events of a job that anybody submitted, as far as the bus has them, its Result last. Raises IngressError and RunnerdError."""
    pauses = Pauses(patience, patience.refused_s)
    pause_s = patience.pause_s
    async with bus.watch(tenant, job_id) as news:
        while True:
            try:
                event = await news.receive(pause_s)
                found = await bus.ask(tenant, job_id, "status") if event is None else event
            except (Saturated, Lost) as error:
                if bus.keeps and isinstance(error, Saturated):  # a daemon may come later
                    pauses.alive()
                await pauses.after(error)
                continue
            if found is None and not bus.keeps:
                raise NotFound(f"{job_id}: no daemon knows such a job of tenant {tenant}")
            pauses.alive()
            if event is not None:
                yield event
            if isinstance(found, Result):
                if event is None:
                    yield found
                return
            pause_s = patience.pause_s if event is not None else min(pause_s * 2, LONGEST_PAUSE_S)


async def result_of(events: AsyncGenerator[Event]) -> Result:
    """The result that ends them."""
    async for event in events:
        if isinstance(event, Result):
            return event
    raise IngressError("the job's events ended without a result")
