"""Carries one job from its arrival to its end: its record, its turn, its sandbox, its starts. `Carrier.carry` is where jobs end."""

import asyncio
from asyncio import CancelledError
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractContextManager, aclosing, nullcontext
from typing import cast

import msgspec
import structlog

from .errors import Interrupted, NotBegun, OverLimit, Rejected, SandboxError, SandboxLost, Saturated, StoreError
from .inhand import CANCELLED, InHand
from .job import Event, Job, Limits, Result, SandboxInfo, Started
from .limits import lasting
from .policy import Stay
from .pool import Lease, Pool
from .record import Elsewhere, Entry, Records
from .slots import Slots
from .spec import Executor
from .workspace import PYTHON, Place, Visit, Workspaces

AGAIN_S = 0.1
"""Between two starts of a job: what took its sandbox may have taken others that still count as warm, and is seen at once."""

log = structlog.get_logger("runnerd.scheduler")


class Carrier:
    """What it takes to carry jobs, and the jobs that have no place in the lines for a slot yet."""

    def __init__(
        self,
        executor: Executor,
        pools: Mapping[str, Pool],
        slots: Slots,
        records: Records,
        workspaces: Workspaces | None,
        *,
        starts: int,
        queue_ttl_s: float,
    ) -> None:
        self.arriving: set[InHand] = set()
        """Jobs that have not asked for a slot yet."""
        self.mean_s = 0.1
        """How long jobs held their slot lately, in seconds."""
        self._executor = executor
        self._pools = pools
        self._slots = slots
        self._records = records
        self._workspaces = workspaces
        self._starts = starts
        self._queue_ttl_s = queue_ttl_s

    async def carry(self, in_hand: InHand, limits: Limits) -> None:
        """Carry a job to its end, and tell its listeners."""
        result: Result | None = None
        error: Exception | None = None
        in_hand.begin()
        try:
            with self._line(in_hand.job) as place:
                result, error = await self._carried(in_hand, limits, place)
        finally:
            self.arriving.discard(in_hand)
            in_hand.end(result, error)

    async def _carried(self, in_hand: InHand, limits: Limits, place: Place | None) -> tuple[Result | None, Exception | None]:
        """How the job ends, or the reason why it is given back."""
        try:
            return await self._outcome(in_hand, limits, place), None
        except CancelledError:
            if in_hand.cause is None:
                raise
            asyncio.current_task().uncancel()  # type: ignore[union-attr]
            return await self._stopped(in_hand)
        except (Interrupted, Saturated) as given_back:
            if in_hand.entry is not None and in_hand.entry.ahead:
                await self._give_back(in_hand, in_hand.entry)
            return None, given_back
        except Rejected as rejected:
            return in_hand.closing("rejected", str(rejected)), None
        except Exception as defect:  # one job's defect must not end the others
            log.exception("a job met a defect of runnerd", job=in_hand.job.id)
            return in_hand.closing("dead", f"a defect of runnerd: {type(defect).__name__}: {defect}"), None
        finally:
            await self._leave(in_hand)

    async def _outcome(self, in_hand: InHand, limits: Limits, place: Place | None) -> Result:
        """How the job ends: as its record says, or after some starts. Raises Rejected, Interrupted and Saturated."""
        if in_hand.cause is not None:
            raise CancelledError
        if in_hand.owned:
            in_hand.entry = await self._claim(in_hand.job, starting=self._at_once(in_hand))
        while True:
            if in_hand.entry is not None:
                if in_hand.entry.result is not None:
                    return await self._told(self._safe(in_hand, in_hand.entry))
                in_hand.starts = in_hand.entry.starts
            try:
                result = await self._reached(in_hand, limits, place)
                in_hand.decide()
                return await self._record(in_hand, result)
            except Elsewhere as lost:
                in_hand.decide(False)
                in_hand.started = False
                log.warning("another daemon has the job", job=in_hand.job.id, reason=str(lost))
                await self._leave(in_hand)
                await self._wait_for_others(in_hand)

    async def _reached(self, in_hand: InHand, limits: Limits, place: Place | None) -> Result:
        """What the job comes to here. Raises Elsewhere, Interrupted and Saturated."""
        job = in_hand.job
        if job.session is not None or job.mounts:
            try:
                in_hand.visit = await self._enter(in_hand, place)
            except TimeoutError:
                return self._expired(in_hand, "other jobs worked in its session all the time")
            except (Rejected, OverLimit) as error:
                return in_hand.closing("rejected", str(error))
            except StoreError as error:
                raise Interrupted(f"the job's session could not be taken, so it was not started: {error}") from error
        return await self._started(in_hand, limits)

    async def _started(self, in_hand: InHand, limits: Limits) -> Result:
        """What the job's starts come to. Raises Elsewhere, Interrupted and Saturated."""
        job = in_hand.job
        tries, retry, lost = in_hand.starts, job.again, False
        reason = "the daemon went away while it ran"
        own: Result | None = None  # what a start came to that another was to follow
        while tries < self._starts and (retry or not in_hand.starts):
            if lost:
                await asyncio.sleep(AGAIN_S)
            tries += 1
            try:
                result = await self._start(in_hand, limits)
            except TimeoutError:
                if own is None:
                    return self._expired(in_hand, "no sandbox was free in time")
                break
            except SandboxError as error:
                reason, lost = str(error), isinstance(error, SandboxLost)
                log.warning("a start of a job failed", job=job.id, lang=job.lang, start=tries, reason=reason)
            else:
                if tries >= self._starts or not self._unwanted(in_hand, result):
                    return result
                own = result
                log.info("a job is started again, as it asks for", job=job.id, lang=job.lang, start=tries, status=result.status)
            in_hand.state = "queued"
        if own is not None:  # the later starts came to nothing
            return msgspec.structs.replace(own, starts=in_hand.starts)
        return in_hand.closing("dead", f"given up after {tries} starts{'' if retry else ', as retry is off'}: {reason}")

    def _unwanted(self, in_hand: InHand, result: Result) -> bool:
        """Whether the job asks for another start after this result of a start; then this one leaves nothing."""
        job, entry = in_hand.job, in_hand.entry
        if result.status not in job.retry_on or not job.again or (entry is not None and entry.result is not None):
            return False
        if entry is not None:
            entry.spend()
        if in_hand.visit is not None:
            in_hand.visit.lose()
        return True

    def _expired(self, in_hand: InHand, reason: str) -> Result:
        """The result of a job that waited too long; raises Saturated where it may come again."""
        if in_hand.kept and self._patience_s(in_hand) == self._queue_ttl_s:
            raise Saturated(f"{reason}, and the job's own time is not over")
        return in_hand.closing("expired", reason)

    def _line(self, job: Job) -> AbstractContextManager[Place | None]:
        return self._workspaces.line(job) if self._workspaces and (job.session is not None or job.mounts) else nullcontext()

    async def _enter(self, in_hand: InHand, place: Place | None) -> Visit:
        """Take the job's session in its turn. Raises TimeoutError, Rejected, OverLimit and StoreError."""
        if self._workspaces is None or place is None:
            raise Rejected("session: this daemon keeps none: leave session and mounts out")
        if not place.come:
            self.arriving.discard(in_hand)  # it waits for its turn there, and not for a slot
        async with asyncio.timeout(self._patience_s(in_hand)):
            await place.wait()
            # only where a slot is free for it: snapshots are not held while jobs wait for one
            ahead = self._pools[in_hand.job.lang].language.warmup == PYTHON and len(self.arriving) <= self._slots.free
            return await self._workspaces.enter(in_hand.job, in_hand.entry, ahead=ahead)

    async def _leave(self, in_hand: InHand) -> None:
        visit, in_hand.visit = in_hand.visit, None
        if visit is not None:
            await visit.close()

    async def _told(self, result: Result) -> Result:
        """A result from the record, when the session has what it names."""
        if result.session and self._workspaces is not None:
            try:
                await self._workspaces.catch_up(result.tenant, result.session)
            except StoreError as error:
                raise Interrupted(f"what the job left can't be reached: {error}") from error
        return result

    async def _wait_for_others(self, in_hand: InHand) -> None:
        """Wait while another daemon runs the job. Raises Interrupted where that takes too long."""
        if in_hand.entry is None:
            return
        try:
            async with asyncio.timeout(max(1.0, self._patience_s(in_hand))):
                await self._records.wait_for_others(in_hand.entry)
        except (TimeoutError, StoreError) as error:
            raise Interrupted(f"another daemon runs the job: {error or 'it takes long'}") from error

    def _at_once(self, in_hand: InHand) -> bool:
        """Whether a job finds a slot and a sandbox now, as do all others that arrive, so that its start can be counted ahead.

        Not where that alone would say that it was started, and it is never started again.
        """
        job, coming = in_hand.job, len(self.arriving)
        if job.session is not None or job.mounts or not job.again or self._patience_s(in_hand) <= 0:
            return False
        return self._slots.unasked >= coming and self._pools[job.lang].ready >= coming

    async def _claim(self, job: Job, *, starting: bool = False) -> Entry:
        try:
            return await self._records.claim(job, starting=starting)
        except StoreError as error:
            raise Interrupted(f"the job could not be recorded, so it was not started: {error}") from error

    async def _start(self, in_hand: InHand, limits: Limits) -> Result:
        """Start the job once, when its turn has come. Raises TimeoutError where that takes too long, and SandboxError."""
        job = in_hand.job
        self.arriving.discard(in_hand)
        ttl_s = self._patience_s(in_hand)
        if ttl_s <= 0:
            raise TimeoutError  # its time was over when it came
        at_hand = self._slots.unasked and self._pools[job.lang].ready  # nothing waits then, and a clock would only cost time
        lease = self._pools[job.lang].lease(job.tenant, self._stay(in_hand, limits))
        async with asyncio.timeout(None if at_hand else ttl_s) as patience, self._slots.hold(job.lang, job.tenant) as hold, lease as leased:
            patience.reschedule(None)
            hold.found()
            now = asyncio.get_running_loop().time()
            in_hand.queued_ms = round((now - in_hand.arrived) * 1000, 3)
            if in_hand.entry is not None:
                if (ended := await self._count_start(in_hand, in_hand.entry)) is not None:
                    return ended
            else:
                in_hand.starts += 1
            in_hand.state, in_hand.started = "running", True
            try:
                result = await self._run_kept(in_hand, leased, limits)
            except BaseException:
                if in_hand.visit is not None:
                    in_hand.visit.lose()
                raise
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

    def _stay(self, in_hand: InHand, limits: Limits) -> Stay | None:
        """What a sandbox may have been kept for that this job can use; None where none is."""
        job = in_hand.job
        reuse = self._pools[job.lang].language.reuse
        if reuse == "tenant":
            return Stay((job.tenant, ""), "")
        if reuse != "session" or in_hand.visit is None:
            return None
        fits = job.state and not job.interactive
        return Stay((job.tenant, in_hand.visit.session), f"{in_hand.visit.mark} {lasting(limits)}" if fits else "")

    def _next_stay(self, in_hand: InHand, leased: Lease, limits: Limits, result: Result) -> Stay | None:
        """What the sandbox is to be kept for after a job; None where it is to end."""
        stay = self._stay(in_hand, limits)
        if stay is None or not leased.sandbox.kept:
            return None
        if not stay.key[1]:  # it keeps nothing of the job
            return stay
        if result.status != "ok" or not stay.mark or in_hand.visit is None:
            return None
        return Stay(stay.key, f"{in_hand.visit.mark_after(result)} {lasting(limits)}")

    async def _run_kept(self, in_hand: InHand, leased: Lease, limits: Limits) -> Result:
        """Run the job; in another sandbox, where it has not begun in one that was kept."""
        try:
            return await self._run_and_keep(in_hand, leased, limits)
        except NotBegun as error:
            if not leased.resumed:
                raise
            log.info("a kept sandbox was of no use", job=in_hand.job.id, reason=str(error))
        job = in_hand.job
        lease = self._pools[job.lang].lease(job.tenant)
        async with asyncio.timeout(self._queue_ttl_s) as patience, lease as fresh:
            patience.reschedule(None)
            return await self._run_and_keep(in_hand, fresh, limits)

    async def _run_and_keep(self, in_hand: InHand, leased: Lease, limits: Limits) -> Result:
        result = await self._run(in_hand, leased, limits)
        if (stay := self._next_stay(in_hand, leased, limits, result)) is not None:
            leased.keep(stay)
        return result

    async def _run(self, in_hand: InHand, leased: Lease, limits: Limits) -> Result:
        """Run the job in its sandbox and pass its events on. Raises SandboxLost."""
        language = self._pools[in_hand.job.lang].language
        try:
            workspace = None if in_hand.visit is None else await in_hand.visit.start(language, limits)
            run = leased.sandbox.run(in_hand.job, language, limits, workspace, in_hand.stdin, in_hand.tools)
            async with aclosing(cast(AsyncGenerator[Event, None], run)) as events:
                async for event in events:
                    if isinstance(event, Result):
                        return self._completed(event, in_hand, leased)
                    in_hand.tell(msgspec.structs.replace(event, start=in_hand.starts) if isinstance(event, Started) else event)
        except Rejected as error:
            return in_hand.closing("rejected", str(error))
        except NotBegun:
            raise
        except (SandboxError, StoreError) as error:
            raise SandboxLost(str(error)) from error
        except Exception as error:
            log.exception("an executor failed", executor=self._executor.name, job=in_hand.job.id)
            raise SandboxLost(f"the executor failed: {type(error).__name__}: {error}") from error
        finally:
            if in_hand.tools is not None:
                in_hand.tools.close()
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

    async def _record(self, in_hand: InHand, result: Result, *, force: bool = False) -> Result:
        """Record the result of a job that has a record or a session. Returns the result that stands.

        Raises Elsewhere, and Interrupted where what a job with a session left could not be recorded. `force` as for `Entry.end`.
        """
        if in_hand.visit is not None:
            try:
                return await in_hand.visit.finish(result, force=force)
            except StoreError as error:
                raise Interrupted(f"how the job ended could not be recorded, so it has left nothing: {error}") from error
        if not in_hand.owned:
            return result
        if in_hand.entry is None:
            in_hand.entry = await self._claim(in_hand.job)
        if in_hand.entry.result is None:
            await self._records.settle(in_hand.entry, result, force=force)
        return self._safe(in_hand, in_hand.entry)

    def _safe(self, in_hand: InHand, entry: Entry) -> Result:
        """The result of a job that ended. Raises Interrupted where it is only in our memory, and the job can come again for it."""
        assert entry.result is not None
        if in_hand.kept and entry.record.result is None:
            raise Interrupted("how the job ended is not recorded yet")
        return entry.result

    async def _give_back(self, in_hand: InHand, entry: Entry) -> None:
        try:
            await entry.give_back()
        except StoreError as error:
            log.warning("a start that was cut short stays counted", job=in_hand.job.id, reason=str(error))

    async def _stopped(self, in_hand: InHand) -> tuple[Result | None, Exception | None]:
        """What becomes of a job that was stopped: a result, or the reason why it was given back."""
        cancelled = in_hand.cause == "cancelled"
        if cancelled:
            closing = in_hand.closing("cancelled", CANCELLED)
        elif in_hand.state == "running" and not in_hand.job.again:
            closing = in_hand.closing("dead", "the daemon stopped while the job ran, and retry is off")
        else:
            if in_hand.entry is not None:
                await self._give_back(in_hand, in_hand.entry)
            return None, Interrupted("the daemon stopped before the job ended")
        try:
            return await self._record(in_hand, closing, force=cancelled), None
        except Interrupted as unrecorded:
            if in_hand.owned and in_hand.entry is None:
                self._records.owe(in_hand.job, closing)
            # One that can come again is answered then, from the record; any other by what we hold.
            return (None, unrecorded) if in_hand.kept else (closing, None)
        except Elsewhere:
            return None, Interrupted("the daemon stopped, and another one has the job")
        except Rejected as error:
            return in_hand.closing("rejected", str(error)), None
