"""Admits jobs, gives each a slot and a sandbox in its turn, starts it again when its sandbox is lost, and records how it ended.

A job is carried by one task from its arrival to its end, see `carrier`; who submitted it only listens. So many may listen to
one job, and a listener may go without ending it.
"""

import asyncio
from asyncio import CancelledError, TaskGroup
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Annotated, Any

import structlog
from msgspec import Meta, Struct

from .carrier import Carrier
from .errors import ConfigError, Conflict, Interrupted, NotFound, Rejected, RunnerdError, Saturated, StoreError
from .inhand import CANCELLED, InHand
from .job import Event, Job, Result
from .limits import LimitSettings, allowed, check_input, effective
from .liveness import open_liveness
from .nursery import open_nursery
from .pace import Pace
from .pool import Pool, PoolSettings, open_pool
from .record import Records, same_job
from .slots import Slots
from .spec import Executor, Language
from .stdin import Stdin
from .store import Blobs, KeyValues
from .tools import Tools, ToolSettings
from .workspace import Workspaces, WorkspaceSettings, open_workspaces

log = structlog.get_logger("runnerd.scheduler")

REMEMBERED = 1000
"""Interactive jobs that have ended and are known, so that who is late is told that."""


class SchedulerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many jobs run and wait, how long, and how often one is started."""

    slots: Annotated[int, Meta(ge=1, le=100_000, extra={"env": "MAX_CONCURRENT_EXECUTIONS"})] = 10
    """Jobs that run at once."""
    queue: Annotated[int, Meta(ge=0, le=10_000_000)] = 1000
    """Jobs that may wait for a slot; one more is told to come again later."""
    queue_ttl_s: Annotated[float, Meta(gt=0, le=604_800)] = 60.0
    """How long a job waits for its sandbox before it has expired, in seconds. A job may ask for less."""
    starts: Annotated[int, Meta(ge=1, le=100)] = 3
    """How often a job is started at most, where its sandbox was lost or could not be started, or its `retry_on` asks for it."""
    result_ttl_s: Annotated[float, Meta(gt=0, le=31_536_000)] = 86_400.0
    """How long the result of a job with an id of its caller's is kept, in seconds."""
    record_patience_s: Annotated[float, Meta(gt=0, le=3600)] = 5.0
    """How long a store that fails is tried again, in seconds."""
    lease_s: Annotated[float, Meta(gt=0, le=3600)] = 15.0
    """How long after its last sign of life a daemon counts as dead, in seconds, so that others take its jobs over."""
    sweep_s: Annotated[float, Meta(gt=0, le=86_400)] = 60.0
    """Seconds between two removals of what has expired in the store."""
    stream_events: Annotated[int, Meta(ge=1, le=1_000_000)] = 1000
    """Pieces of output kept for a listener that is slow; it loses the further ones until it has caught up."""
    grace_s: Annotated[float, Meta(ge=0, le=86_400)] = 30.0
    """How long jobs in hand may go on when the daemon stops, in seconds; the rest is given back."""


class Scheduler:
    """All jobs in hand. Made by `open_scheduler`."""

    def __init__(
        self,
        executor: Executor,
        pools: Mapping[str, Pool],
        records: Records,
        workspaces: Workspaces | None = None,
        *,
        limits: LimitSettings,
        settings: SchedulerSettings,
        tasks: TaskGroup,
        tools: ToolSettings | None = None,
    ) -> None:
        self._pools = pools
        self._records = records
        self._workspaces = workspaces
        self._limits = limits
        self._settings = settings
        self._tasks = tasks
        self._tools = tools or ToolSettings()
        self._slots = Slots(settings.slots, lambda lang: bool(pools[lang].failing()), self._notify)
        self._carrier = Carrier(executor, pools, self._slots, records, workspaces, starts=settings.starts, queue_ttl_s=settings.queue_ttl_s)
        self._jobs: dict[tuple[str, str], InHand] = {}
        self._talked: dict[tuple[str, str], None] = {}
        """Jobs that could be talked to, and have ended; the latest of them."""
        self.sessions = None if workspaces is None else workspaces.sessions
        """What ingresses ask of sessions."""
        self.counted: Callable[[Result], None] = lambda _: None
        """Called once for each job that was started here and has a result."""
        self._draining = False
        self._change = asyncio.Event()
        self._changing = False
        self._dropped = 0
        for pool in pools.values():
            pool.recovered = self._slots.deal

    async def submit(
        self, job: Job, *, owned: bool = False, kept: bool = False, lost: Callable[[int], None] | None = None
    ) -> AsyncGenerator[Event, None]:
        """Run a job that is decoded and canonical: id, tenant and language code are set. Ends with its result.

        `owned`: its caller gave the id, so it runs once for all who submit it. `kept`, `lost`: see `Delivery`. See `Services.submit`
        for what leaving and cancelling do. Raises Saturated and Interrupted; neither leaves a trace of the job.
        """
        try:
            in_hand = await self._admit(job, owned, kept)
        except Rejected as error:
            yield Result(id=job.id, tenant=job.tenant, lang=job.lang, status="rejected", reason=str(error))
            return
        if isinstance(in_hand, Result):
            yield in_hand
            return
        listener = in_hand.listen(job.stream, self._settings.stream_events)
        try:
            while True:
                event = await listener.next(in_hand)
                if isinstance(event, Result) and lost is not None and listener.dropped:
                    lost(listener.dropped)
                yield event
                if isinstance(event, Result):
                    return
        except CancelledError:
            in_hand.desert(listener, "interrupted" if self._draining else "cancelled")
            raise
        except GeneratorExit:
            in_hand.leave(listener)
            raise
        finally:
            self._dropped += listener.dropped

    async def cancel(self, tenant: str, job_id: str, *, ahead: bool = False) -> Result | None:
        """Cancel a job that is queued or running; its result, or that of a job that has ended, or None for no such job.

        `ahead`: no such job is cancelled as well, and so never runs, should it come. Raises StoreError, and Interrupted where the
        daemon stops meanwhile.
        """
        in_hand = self._jobs.get((tenant, job_id))
        if in_hand is not None:
            in_hand.stop("cancelled")
            return await in_hand.over()
        entry = await (self._records.reserve(tenant, job_id) if ahead else self._records.find(tenant, job_id))
        if entry is None:
            return None
        known = entry.record
        return await entry.end(
            Result(id=job_id, tenant=tenant, lang=known.lang, status="cancelled", reason=CANCELLED, starts=known.starts), force=True
        )

    async def feed(self, tenant: str, job_id: str, data: bytes, *, end: bool = False) -> None:
        """Send an interactive job more standard input. Raises NotFound, Conflict, Rejected and OverLimit, see `Services.feed`."""
        stdin = self._talking(tenant, job_id).stdin
        if stdin is None:
            raise Rejected("interactive: the job was submitted without it, and takes no more standard input")
        await stdin.feed(data, end=end)

    async def answer(self, tenant: str, job_id: str, call: str, answer: bytes, *, failed: bool = False) -> None:
        """Answer a call of a tool. Raises NotFound, Conflict, Rejected and OverLimit, see `Services.answer`."""
        tools = self._talking(tenant, job_id).tools
        if tools is None:
            raise Rejected("tools: the job was submitted without any, and waits for no answers")
        tools.answer(call, answer, failed=failed)

    def _talking(self, tenant: str, job_id: str) -> InHand:
        """The job that is talked to. Raises NotFound and Conflict."""
        in_hand = self._jobs.get((tenant, job_id))
        if in_hand.ended if in_hand is not None else (tenant, job_id) in self._talked:
            raise Conflict(f"job {job_id[:80]!r} has ended")
        if in_hand is None:
            raise NotFound(f"there is no job {job_id[:80]!r} in hand here")
        return in_hand

    async def status(self, tenant: str, job_id: str) -> str | Result | None:
        """`queued`, `running`, the result of a job that ended, or None for no such job. Raises StoreError."""
        in_hand = self._jobs.get((tenant, job_id))
        if in_hand is not None:
            return in_hand.result or in_hand.state
        entry = await self._records.find(tenant, job_id)
        return None if entry is None else await self._told(entry.result) or entry.record.state

    def free(self) -> int:
        """How many more jobs would get a slot if they came now."""
        return 0 if self._draining else max(0, self._slots.free - len(self._carrier.arriving))

    async def changed(self) -> None:
        """Wait until `free()` or `draining()` may have changed."""
        await self._change.wait()

    def draining(self) -> bool:
        """Whether no more jobs are taken."""
        return self._draining

    async def drain(self) -> None:
        """Take no more jobs, let those in hand go on for the grace, then give the rest back. Returns when none is in hand."""
        self._draining = True
        self._notify()
        try:
            async with asyncio.timeout(self._settings.grace_s):
                while self._jobs:
                    await self.changed()
        except TimeoutError:
            log.warning("grace is over, giving jobs back", jobs=len(self._jobs))
        await self.give_back()

    async def give_back(self) -> None:
        """Stop every job in hand, without a result, and wait until none is left, even where the caller is cancelled meanwhile."""
        self._draining = True
        for in_hand in self._jobs.values():
            in_hand.stop("interrupted")
        cancelled: CancelledError | None = None
        while self._jobs:
            try:
                await self.changed()
            except CancelledError as error:  # each job bounds its own end, so this ends as well
                cancelled = error
        if cancelled is not None:
            raise cancelled

    def resize(self, lang: str, warm: int) -> None:
        """Keep so many sandboxes of a language warm from now on."""
        self._pools[lang].resize(warm)

    def health(self) -> dict[str, Any]:
        """Slots, jobs in hand, and each pool's state: plain data."""
        return {
            "slots": self._settings.slots,
            "free": self.free(),
            "running": self._slots.held,
            "queued": self._slots.waiting,
            "draining": self._draining,
            "dropped_events": self._dropped,
            **({} if self._workspaces is None else {"sessions": self._workspaces.health()}),
            "pools": {lang: pool.health() for lang, pool in self._pools.items()},
        }

    def paces(self) -> dict[str, Pace]:
        """How the pool of each language does."""
        return {lang: pool.pace for lang, pool in self._pools.items()}

    def sweeps(self) -> dict[str, float]:
        """See `Workspaces.metrics`; empty where there are no sessions."""
        return {} if self._workspaces is None else self._workspaces.metrics()

    async def sweep(self) -> None:
        """Keep the store in order, again and again: record what it did not take before, and remove what has expired."""
        while True:
            await asyncio.sleep(self._settings.sweep_s)
            try:
                await self._records.settle_owed()
                if self._workspaces is not None:
                    await self._workspaces.settle_owed()
                await self._records.patiently(self._records.kv.expire)
            except StoreError as error:
                log.warning("the key-value store fails", reason=str(error))

    async def _admit(self, job: Job, owned: bool, kept: bool) -> InHand | Result:
        """Take a job in hand, join the one that is, or find how it ended. Raises Rejected, Saturated and Interrupted."""
        in_hand = self._jobs.get((job.tenant, job.id))
        if in_hand is not None:
            same_job(in_hand.job, job)
            return in_hand
        pool = self._pools.get(job.lang)
        if pool is None:
            raise Rejected(f"lang: {job.lang[:80]!r} is not run here: {', '.join(sorted(self._pools)) or 'no language is'}")
        limits = effective(job, pool.language, self._limits)
        check_input(job, self._limits)
        refusal = self._refusal()
        if refusal is not None:
            result = await self._recorded(job) if owned else None
            if result is None:
                raise refusal
            return result
        in_hand = InHand(job, owned, asyncio.get_running_loop().time(), kept=kept)
        if job.interactive:
            in_hand.stdin = Stdin(self._limits.input_bytes)
        if job.tools:
            in_hand.tools = Tools(job, self._tools)
        self._jobs[in_hand.key] = in_hand
        self._carrier.arriving.add(in_hand)
        carried = self._tasks.create_task(self._carrier.carry(in_hand, limits))
        carried.add_done_callback(partial(self._ended, in_hand))
        return in_hand

    def _refusal(self) -> RunnerdError | None:
        if self._draining:
            return Interrupted("this daemon is stopping and takes no more jobs")
        if len(self._jobs) < self._settings.slots + self._settings.queue:
            return None
        retry_s = min(60.0, max(0.1, self._settings.queue * self._carrier.mean_s / self._settings.slots))
        return Saturated(f"{len(self._jobs)} jobs are running or waiting: try again in {retry_s:.1f} s", retry_s)

    async def _recorded(self, job: Job) -> Result | None:
        try:
            return await self._told(await self._records.result(job))
        except StoreError:
            return None  # then the job is refused for the reason that led here

    async def _told(self, result: Result | None) -> Result | None:
        """A result from the record, when the session has what it names. Raises StoreError."""
        if result is not None and result.session and self._workspaces is not None:
            await self._workspaces.catch_up(result.tenant, result.session)
        return result

    def _ended(self, in_hand: InHand, _carried: asyncio.Task[None]) -> None:
        del self._jobs[in_hand.key]
        if in_hand.stdin is not None or in_hand.tools is not None:
            self._talked[in_hand.key] = None
            while len(self._talked) > REMEMBERED:
                del self._talked[next(iter(self._talked))]
        if not in_hand.ended:
            in_hand.end(None)  # cancelled before it began
        if in_hand.started and in_hand.result is not None:
            self.counted(in_hand.result)
        self._notify()

    def _notify(self) -> None:
        """Tell once in a turn of the loop, however much changes in it."""
        if not self._changing:
            self._changing = True
            asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        self._changing = False
        change, self._change = self._change, asyncio.Event()
        change.set()


@asynccontextmanager
async def open_scheduler(
    executor: Executor,
    languages: Mapping[str, Language],
    kv: KeyValues,
    limits: LimitSettings | None = None,
    settings: SchedulerSettings | None = None,
    pool_settings: PoolSettings | None = None,
    blobs: Blobs | None = None,
    workspace_settings: WorkspaceSettings | None = None,
    tools: ToolSettings | None = None,
) -> AsyncGenerator[Scheduler, None]:
    """Take jobs while the block is open. Leaving it without `drain` gives back what is in hand.

    `languages`: by code. `blobs`: without, there are no sessions. Raises ConfigError where a language's multipliers are impossible.
    """
    limits, settings, pool_settings = limits or LimitSettings(), settings or SchedulerSettings(), pool_settings or PoolSettings()
    for language in languages.values():
        try:
            allowed(language, limits)
        except ValueError as error:
            raise ConfigError(str(error)) from None
    async with AsyncExitStack() as stack:
        liveness = await stack.enter_async_context(open_liveness(kv, settings.lease_s))
        records = Records(
            kv,
            by=liveness.by,
            result_ttl_s=settings.result_ttl_s,
            patience_s=settings.record_patience_s,
            most_owed=settings.slots + settings.queue,
            alive=liveness.alive,
        )
        workspaces: Workspaces | None = None
        if blobs is not None:
            opening = open_workspaces(records, blobs, limits, workspace_settings or WorkspaceSettings())
            workspaces = await stack.enter_async_context(opening)
        pools: dict[str, Pool] = {}
        for code, language in languages.items():
            pools[code] = await stack.enter_async_context(open_pool(executor, language, pool_settings, settings.slots))
        if pool_settings.warm_at_start:
            for pool in pools.values():
                await pool.warmed()
        tasks = await stack.enter_async_context(open_nursery())
        scheduler = Scheduler(executor, pools, records, workspaces, limits=limits, settings=settings, tasks=tasks, tools=tools)
        sweep = tasks.create_task(scheduler.sweep())
        try:
            yield scheduler
        finally:
            await scheduler.give_back()
            sweep.cancel()
            with suppress(StoreError):
                await records.settle_owed()
                if workspaces is not None:
                    await workspaces.settle_owed()
