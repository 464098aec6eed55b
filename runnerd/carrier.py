"""Carries one job from its arrival to its end: its record, its turn, its sandbox, its starts. `Carrier.carry` is where jobs end."""

import asyncio
from asyncio import CancelledError
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import cast

import msgspec
import structlog

from .errors import Interrupted, Rejected, SandboxError, SandboxLost, Saturated, StoreError
from .inhand import CANCELLED, InHand
from .job import Event, Job, Limits, Result, SandboxInfo, Started
from .pool import Lease, Pool
from .record import Entry, Records
from .slots import Slots
from .spec import Executor

log = structlog.get_logger("runnerd.scheduler")


class Carrier:
    """What it takes to carry jobs, and the jobs that have no place in the lines for a slot yet."""

    def __init__(
        self, executor: Executor, pools: Mapping[str, Pool], slots: Slots, records: Records, *, starts: int, queue_ttl_s: float
    ) -> None:
        self.arriving: set[InHand] = set()
        """Jobs that have not asked for a slot yet."""
        self.mean_s = 0.1
        """How long jobs held their slot lately, in seconds."""
        self._executor = executor
        self._pools = pools
        self._slots = slots
        self._records = records
        self._starts = starts
        self._queue_ttl_s = queue_ttl_s

    async def carry(self, in_hand: InHand, limits: Limits) -> None:
        """Carry a job to its end, and tell its listeners."""
        result: Result | None = None
        error: Exception | None = None
        in_hand.begin()
        try:
            try:
                result = await self._outcome(in_hand, limits)
            finally:
                in_hand.decide()
            result = await self._record(in_hand, result)
        except CancelledError:
            if in_hand.cause is None:
                raise
            asyncio.current_task().uncancel()  # type: ignore[union-attr]
            result, error = await self._stopped(in_hand)
        except (Interrupted, Saturated) as given_back:
            error = given_back
        except Rejected as rejected:
            result = in_hand.closing("rejected", str(rejected))
        except Exception as defect:  # one job's defect must not end the others
            log.exception("a job met a defect of runnerd", job=in_hand.job.id)
            result = in_hand.closing("dead", f"a defect of runnerd: {type(defect).__name__}: {defect}")
        finally:
            self.arriving.discard(in_hand)
            in_hand.end(result, error)

    async def _outcome(self, in_hand: InHand, limits: Limits) -> Result:
        """How the job ends: as its record says, or after some starts. Raises Rejected, Interrupted and Saturated."""
        if in_hand.cause is not None:
            raise CancelledError
        if in_hand.owned:
            in_hand.entry = await self._claim(in_hand.job)
            if in_hand.entry.result is not None:
                return in_hand.entry.result
            in_hand.starts = in_hand.entry.record.starts
        tries, retry = in_hand.starts, in_hand.job.retry
        reason = "the daemon went away while it ran"
        while tries < self._starts and (retry or not in_hand.starts):
            tries += 1
            try:
                return await self._start(in_hand, limits)
            except TimeoutError:
                if in_hand.kept and self._patience_s(in_hand) == self._queue_ttl_s:
                    raise Saturated("no sandbox was free in time, and the job's own time is not over") from None
                return in_hand.closing("expired", "no sandbox was free in time")
            except SandboxError as error:
                reason = str(error)
                in_hand.state = "queued"
                log.warning("a start of a job failed", job=in_hand.job.id, lang=in_hand.job.lang, start=tries, reason=reason)
        return in_hand.closing("dead", f"given up after {tries} starts{'' if retry else ', as retry is off'}: {reason}")

    async def _claim(self, job: Job) -> Entry:
        try:
            return await self._records.claim(job)
        except StoreError as error:
            raise Interrupted(f"the job could not be recorded, so it was not started: {error}") from error

    async def _start(self, in_hand: InHand, limits: Limits) -> Result:
        """Start the job once, when its turn has come. Raises TimeoutError where that takes too long, and SandboxError."""
        job = in_hand.job
        self.arriving.discard(in_hand)
        ttl_s = self._patience_s(in_hand)
        if ttl_s <= 0:
            raise TimeoutError  # its time was over when it came
        lease = self._pools[job.lang].lease(job.tenant)
        async with asyncio.timeout(ttl_s) as patience, self._slots.hold(job.lang, job.tenant) as hold, lease as leased:
            patience.reschedule(None)
            hold.found()
            now = asyncio.get_running_loop().time()
            in_hand.queued_ms = round((now - in_hand.arrived) * 1000, 3)
            if in_hand.entry is not None:
                ended = await self._count_start(in_hand, in_hand.entry)
                if ended is not None:
                    return ended
            else:
                in_hand.starts += 1
            in_hand.state = "running"
            result = await self._run(in_hand, leased, limits)
            self.mean_s += (asyncio.get_running_loop().time() - now - self.mean_s) / 32
            return result

    def _patience_s(self, in_hand: InHand) -> float:
        """How long the job may wait for its sandbox. What was started already came in time, however long ago that is."""
        own_s = in_hand.job.queue_ttl_s
        if own_s is None or (own_s <= 0 and in_hand.starts):
            return self._queue_ttl_s
        return min(own_s, self._queue_ttl_s)

    async def _count_start(self, in_hand: InHand, entry: Entry) -> Result | None:
        try:
            ended = await entry.start()
        except StoreError as error:
            raise Interrupted(f"the start could not be recorded, so the job was not started: {error}") from error
        in_hand.starts = entry.record.starts
        return ended

    async def _run(self, in_hand: InHand, leased: Lease, limits: Limits) -> Result:
        """Run the job in its sandbox and pass its events on. Raises SandboxLost."""
        run = leased.sandbox.run(in_hand.job, self._pools[in_hand.job.lang].language, limits)
        try:
            async with aclosing(cast(AsyncGenerator[Event, None], run)) as events:
                async for event in events:
                    if isinstance(event, Result):
                        return self._completed(event, in_hand, leased)
                    in_hand.tell(msgspec.structs.replace(event, start=in_hand.starts) if isinstance(event, Started) else event)
        except Rejected as error:
            return in_hand.closing("rejected", str(error))
        except SandboxError as error:
            raise SandboxLost(str(error)) from error
        except Exception as error:
            log.exception("an executor failed", executor=self._executor.name, job=in_hand.job.id)
            raise SandboxLost(f"the executor failed: {type(error).__name__}: {error}") from error
        raise SandboxLost("the sandbox ended without a result")

    def _completed(self, result: Result, in_hand: InHand, leased: Lease) -> Result:
        """The executor's result with what only the scheduler knows."""
        executor, job = self._executor, in_hand.job
        if result.sandbox is None:
            sandbox = SandboxInfo(executor=executor.name, level=executor.level, warm=leased.warm)
        else:
            sandbox = msgspec.structs.replace(result.sandbox, warm=leased.warm)
        usage = msgspec.structs.replace(result.usage, queued_ms=in_hand.queued_ms)
        return msgspec.structs.replace(
            result, id=job.id, tenant=job.tenant, lang=job.lang, usage=usage, sandbox=sandbox, starts=in_hand.starts
        )

    async def _record(self, in_hand: InHand, result: Result) -> Result:
        """Record the result of a job that has a record. Returns the result that stands."""
        if not in_hand.owned:
            return result
        if in_hand.entry is None:
            in_hand.entry = await self._claim(in_hand.job)
        return in_hand.entry.result or await self._records.settle(in_hand.entry, result)

    async def _stopped(self, in_hand: InHand) -> tuple[Result | None, Exception | None]:
        """What becomes of a job that was stopped: a result, or the reason why it was given back."""
        if in_hand.cause == "cancelled":
            closing = in_hand.closing("cancelled", CANCELLED)
        elif in_hand.state == "running" and not in_hand.job.retry:
            closing = in_hand.closing("dead", "the daemon stopped while the job ran, and retry is off")
        else:
            if in_hand.entry is not None:
                try:
                    await in_hand.entry.give_back()
                except StoreError as error:
                    log.warning("a start that was cut short stays counted", job=in_hand.job.id, reason=str(error))
            return None, Interrupted("the daemon stopped before the job ended")
        try:
            return await self._record(in_hand, closing), None
        except Interrupted:
            return closing, None  # cancelled before it was recorded, by one who is told so
        except Rejected as error:
            return in_hand.closing("rejected", str(error)), None
