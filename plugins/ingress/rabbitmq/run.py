"""Jobs: a message becomes a job in hand, and is acked when its result is recorded and told."""

import asyncio

from aiormq.abc import DeliveredMessage
from msgspec import Struct
from msgspec.structs import replace

from runnerd import TOKEN, Interrupted, Result, Saturated, Services, without_output

from .bus import Bus, NotSent
from .frames import MALFORMED
from .hands import Hands, Held
from .intake import Intake
from .log import log
from .outcome import Outcomes
from .refusal import BAD_REQUEST, NOT_FOUND, Refusal
from .reply import Reply, reply_problem
from .request import Request, read_request
from .stream import Stream


class RunBounds(Struct, frozen=True, kw_only=True):
    """How much of a job is taken, told and waited for."""

    body_bytes: int
    message_bytes: int
    stall_s: float
    consumer_timeout_s: float
    reply_prefixes: tuple[str, ...]


class Run:
    """Takes what the broker delivers. One task per message, all children of `tasks`, none of the library's."""

    def __init__(
        self, bus: Bus, services: Services, intake: Intake, hands: Hands, outcomes: Outcomes, tasks: asyncio.TaskGroup, *, bounds: RunBounds
    ) -> None:
        self._bus = bus
        self._services = services
        self._intake = intake
        self._hands = hands
        self._outcomes = outcomes
        self._tasks = tasks
        self._bounds = bounds
        self._jobs: set[asyncio.Task[None]] = set()

    def take(self, message: DeliveredMessage, queue: str) -> None:
        """Take a message in hand. Never waits for a job."""
        held, new = self._hands.take(message, queue)
        if new:
            self._start(held)
        elif not self._hands.holds(held):  # it ended, and only its ack was lost
            self._tasks.create_task(self._hands.done(held))

    async def finish(self, grace_s: float, close_s: float) -> None:
        """Wait for the jobs in hand. Those that are not done after `grace_s` are cancelled and given back."""
        if self._jobs:
            await asyncio.wait(self._jobs, timeout=grace_s)
        for job in self._jobs:
            job.cancel()
        if self._jobs:
            await asyncio.wait(self._jobs, timeout=close_s)

    async def renew(self) -> None:
        """Park what would be in hand for longer than the broker lets it be, again and again."""
        most_s = self._bounds.consumer_timeout_s / 2
        while True:
            await asyncio.sleep(most_s / 4)
            now = asyncio.get_running_loop().time()
            for held in self._hands.all():
                if not held.lost and now - held.came >= most_s:
                    try:
                        await self._outcomes.park(held, most_s)
                    except NotSent as error:
                        self._bus.counters.count("renewals_failed", cause=str(error))

    def _start(self, held: Held) -> None:
        job = self._tasks.create_task(self._carry(held))
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    async def _carry(self, held: Held) -> None:
        """One message, from here until it is acked or given back. Raises nothing: a task that failed would end the others."""
        try:
            if self._intake.closed:
                await self._hands.give_back(held)
            else:
                await self._end(held)
        except (Saturated, Interrupted, NotSent) as reason:
            await self._again(held, reason)
        except asyncio.CancelledError:
            await self._hands.give_back(held)
        except Exception as defect:  # noqa: BLE001 - whatever the daemon raises, the job comes again and the others go on
            log.exception("job failed in runnerd", queue=held.queue)
            await self._again(held, defect)
        finally:
            self._hands.leave(held)

    async def _again(self, held: Held, reason: Exception) -> None:
        """Give a job back that could not be run now: at once where this daemon stops, else after a while."""
        if self._services.draining() or self._intake.closed:
            await self._intake.stop()  # or it would come here again
            await self._hands.give_back(held)
            return
        self._bus.counters.count("given_back", cause=f"{type(reason).__name__}: {reason}"[:200])
        least_s = reason.retry_after_s if isinstance(reason, Saturated) else 0.0
        try:
            if isinstance(reason, NotSent) or not await self._later(held, least_s):
                await asyncio.sleep(max(1.0, least_s))  # else it would come again at once
                await self._hands.give_back(held)
        except asyncio.CancelledError:
            await self._hands.give_back(held)

    async def _later(self, held: Held, least_s: float) -> bool:
        """Have a copy of it come again; False where there can be none."""
        try:
            return await self._outcomes.later(held, least_s)
        except Exception as error:  # noqa: BLE001 - whatever went wrong with the copy, the message itself is given back
            self._bus.counters.count("copies_failed", cause=f"{type(error).__name__}: {error}"[:200])
            return False

    async def _end(self, held: Held) -> None:
        """Run the job and tell its result. Raises Saturated, Interrupted and NotSent."""
        reply = Reply(held.message.header.properties, self._bounds.message_bytes, held.fallback_id)
        if held.message.header.properties.message_type == MALFORMED:
            self._bus.counters.count("refused_malformed", queue=held.queue)
            await self._outcomes.bury(held, reply.job_id, "its properties or headers can't be read: they must be UTF-8")
            return
        if reply.to and (problem := self._forbidden(reply.to)):
            self._bus.counters.count("refused_reply", queue=reply.to[:100], problem=problem)
            await self._outcomes.bury(held, reply.job_id, f"reply_to: {problem}: {reply.to[:80]!r}")
            return
        try:
            request = self._read(held)
        except Refusal as refusal:
            self._bus.counters.count("refused_request", reason=refusal.reason)
            await self._outcomes.ended(held, reply, self._refused(held, reply, refusal), refusal.code)
            return
        await self._outcomes.ended(held, reply, await self._run(request, reply))

    def _read(self, held: Held) -> Request:
        """What the message asks for. Raises Refusal."""
        address = self._bus.topology.address(held.message.routing_key or "", held.queue)
        if address is None:
            raise Refusal(BAD_REQUEST, f"routing key: {(held.message.routing_key or '')[:80]!r} is not job.<tenant>.<class>.<lang>")
        request = read_request(held.message, address, held.fallback_id, self._bounds.body_bytes)
        if address.lang and address.lang not in self._services.languages:
            known = ", ".join(sorted(self._services.languages))
            raise Refusal(NOT_FOUND, f"language {address.lang[:80]!r} is not known here: use one of {known}")
        if request.stream_to and (problem := self._forbidden(request.stream_to)):
            raise Refusal(BAD_REQUEST, f"rd-stream-to: {problem}")
        return request

    def _refused(self, held: Held, reply: Reply, refusal: Refusal) -> Result:
        """The result of a message that is no job, as far as it says whose."""
        address = self._bus.topology.address(held.message.routing_key or "", held.queue)
        tenant, lang = (address.tenant[:64], address.lang[:64]) if address else ("", "")
        names = [name if TOKEN.fullmatch(name) else "" for name in (reply.job_id, tenant, lang)]
        return Result(id=names[0] or held.fallback_id, tenant=names[1], lang=names[2], status="rejected", reason=refusal.reason)

    async def _run(self, request: Request, reply: Reply) -> Result:
        """Run the job and pass its output on; its result. Raises Saturated and Interrupted."""
        result: Result | None = None
        bounds = self._bounds
        stream = Stream(request, reply, self._bus, self._services, message_bytes=bounds.message_bytes, stall_s=bounds.stall_s)
        delivery = replace(request.delivery, lost=reply.lose)
        async for event in self._services.submit(delivery):  # to its very end, or a task of its own would have to close it
            if isinstance(event, Result):
                result = event
            else:
                await stream.event(event)
        if result is None:
            raise Interrupted("runnerd gave no result; its log says why")
        return without_output(result) if request.output == "none" else result

    def _forbidden(self, queue: str) -> str:
        return reply_problem(queue, self._bounds.reply_prefixes, self._bus.topology)
