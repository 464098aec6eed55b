"""Durable jobs: a message from the stream becomes a job in hand, and is acked when its result is recorded and published."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from msgspec import Struct
from msgspec.structs import replace
from nats.aio.msg import Msg

from runnerd import Delivery, Interrupted, Result, RunnerdError, Saturated, Services, ToolCall

from ..bus import Bus
from ..endpoint import Endpoint
from ..log import log
from ..refusal import Refusal
from ..reply import Reply
from ..request import folded
from ..room import Room
from ..stream import Stream
from .asked import Asked, read_asked
from .bodies import Announced, Bodies, Missing
from .events import Events
from .hands import Hands, Held
from .message import Origin
from .outcome import Outcomes

_SEVERAL = 3
"""So many failures in a row are not the jobs' own, but of what all of them need."""


class DurableBounds(Struct, frozen=True, kw_only=True):
    """How much of a job is taken and held, and when it comes again."""

    body_bytes: int
    parts_bytes: int
    """Of a body that comes in parts."""
    stream_pending_bytes: int
    in_hand: int
    exact: bool
    """Whether languages that are not run here are run elsewhere."""
    again_s: float
    again_most_s: float


class NotHere(Exception):
    """A job that this daemon leaves to others."""


class Durable:
    """Takes what the pull loop gets. One task per message, all children of `tasks`."""

    def __init__(
        self,
        bus: Bus,
        services: Services,
        outcomes: Outcomes,
        hands: Hands,
        room: Room,
        bodies: Bodies,
        tasks: asyncio.TaskGroup,
        *,
        events: Callable[[], Events],
        endpoint: Endpoint,
        bounds: DurableBounds,
    ) -> None:
        """`events`: makes what stores the events of one run of a job."""
        self._bus = bus
        self._services = services
        self._outcomes = outcomes
        self._hands = hands
        self._room = room
        self._bodies = bodies
        self._tasks = tasks
        self._events = events
        self._endpoint = endpoint
        self._bounds = bounds
        self._jobs: set[asyncio.Task[None]] = set()
        self._failures = 0
        """Jobs in a row that runnerd could not run."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when room for jobs came."""
        self.on_failure: Callable[[float], None] = lambda _: None
        """Called when several jobs in a row were given back, with how long to ask for no more."""

    def receive(self, msg: Msg, origin: Origin) -> None:
        """Take a message in hand, or give it back where there is no room for it. Never waits."""
        held = self._hands.take(msg, origin)
        if held is None:
            return
        taken = len(self._hands) <= self._bounds.in_hand and self._room.take(self._services.free() - self._bodies.coming)
        self._start(self._carry(held) if taken else self._refuse(held))

    async def finish(self, grace_s: float, close_s: float) -> None:
        """Wait for the jobs in hand. Those that are not done after `grace_s` are cancelled and given back."""
        if self._jobs:
            await asyncio.wait(self._jobs, timeout=grace_s)
        for job in self._jobs:
            job.cancel()
        if self._jobs:
            await asyncio.wait(self._jobs, timeout=close_s)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        job = self._tasks.create_task(work)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    async def _refuse(self, held: Held) -> None:
        """Others took the slots since it was asked for. It is the first to come again, and goes to who has room: we don't ask now."""
        self._bus.counters.count("given_back_unstarted")
        await self._hands.give_back(held)

    async def _carry(self, held: Held) -> None:
        """One message, from here until it is acked or given back. Raises nothing: a task that failed would end the others."""
        began = self._endpoint.begin()
        error = ""
        self._room.started()  # the daemon counts the job itself as soon as `submit` begins: in this same step of the loop
        try:
            await self._end(held)
            self._failures = 0
        except NotHere as reason:
            self._bus.counters.count("given_back_for_others", reason=str(reason))
            await self._hands.give_back(held, self._bounds.again_s)
        except (Saturated, Interrupted) as reason:
            error = f"given back: {reason}"
            await self._give_back(held, reason)
        except asyncio.CancelledError:
            error = "given back: this daemon stops"
            await self._hands.give_back(held)
        except Exception as defect:  # noqa: BLE001 - whatever the daemon raises, the job comes again and the others go on
            log.exception("durable job failed in runnerd", stream=held.origin.stream, seq=held.origin.seq)
            error = f"given back: a defect of runnerd: {type(defect).__name__}"
            await self._give_back(held, defect)
        finally:
            self._room.done()
            self._endpoint.end(began, error)
            self.on_change()

    async def _give_back(self, held: Held, reason: Exception) -> None:
        if self._room.closed or self._services.draining():
            await self._hands.give_back(held)  # another daemon can take it at once
            return
        pause_s = min(self._bounds.again_most_s, self._bounds.again_s * 2 ** min(16, self._failures))
        self._failures += 1
        self._bus.counters.count("given_back", reason=str(reason), pause_s=pause_s)
        if self._failures >= _SEVERAL:
            self.on_failure(pause_s)
        least = reason.retry_after_s if isinstance(reason, Saturated) else 0.0
        await self._hands.give_back(held, max(least, pause_s))

    async def _end(self, held: Held) -> None:
        """Run the job, publish its result, and ack. Raises Saturated and Interrupted."""
        headers = folded(held.msg.headers)
        try:
            asked = self._read(held, headers)
            result, stream = await (self._run(asked, headers) if asked.parts is None else self._run_parts(asked, asked.parts, headers))
        except Refusal as refusal:
            self._bus.counters.count("refused_request", reason=refusal.reason)
            result = self._outcomes.refused(held, headers, refusal.reason)
            await self._outcomes.publish(held, headers, result, asked=None, stream=None)
            return
        await self._outcomes.publish(held, headers, result, asked=asked, stream=stream)
        if asked.parts is not None and result.status != "dead":  # a dead letter may be submitted again
            await self._bodies.forget(asked.parts)

    async def _run_parts(self, asked: Asked, parts: Announced, headers: dict[str, str]) -> tuple[Result, Stream | None]:
        """Run a job whose body is stored in parts. Raises Refusal besides."""
        try:
            async with self._bodies.body(parts) as body:
                delivery = replace(asked.request.delivery, body=body)
                return await self._run(replace(asked, request=replace(asked.request, delivery=delivery)), headers)
        except Missing as missing:
            known = await self._known(asked.request.delivery)
            if known is None:
                raise
            if not isinstance(known, Result):
                raise Interrupted(f"it is {known} elsewhere, and {missing}") from missing
            return known, None

    async def _known(self, delivery: Delivery) -> str | Result | None:
        """What is known of a job. Raises Interrupted."""
        try:
            return await self._services.status(delivery.tenant, delivery.job_id or delivery.message_id)
        except RunnerdError as error:
            raise Interrupted(f"what became of it can't be told: {error}") from error

    def _read(self, held: Held, headers: dict[str, str]) -> Asked:
        """What the message asks for. Raises Refusal and NotHere."""
        asked = read_asked(
            held.msg.subject,
            held.msg.data or b"",
            headers,
            held.origin,
            prefix=self._bus.subjects.prefix,
            body_bytes=self._bounds.body_bytes,
            parts_bytes=self._bounds.parts_bytes,
            forbidden=lambda subject: self._bus.forbidden(held.msg, subject),
            now=time.time(),
        )
        delivery = asked.request.delivery
        if self._bounds.exact and delivery.lang not in self._services.languages:
            raise NotHere(f"language {delivery.lang!r} is another daemon's")
        if not {"*", delivery.tenant} & set(self._bus.subjects.tenants):
            raise NotHere(f"tenant {delivery.tenant!r} is another daemon's")
        return asked

    async def _run(self, asked: Asked, headers: dict[str, str]) -> tuple[Result, Stream | None]:
        """Run the job and pass its output on; its result. Raises Saturated and Interrupted."""
        stream: Stream | None = None
        result: Result | None = None

        def lost(pieces: int) -> None:
            if stream is not None:
                stream.lose(pieces)

        delivery = replace(asked.request.delivery, lost=lost)
        async for event in self._services.submit(delivery):  # to its very end, or a task of its own would have to close it
            if isinstance(event, Result):
                result = event
            elif asked.output != "none" or isinstance(event, ToolCall):
                stream = stream or self._stream(asked, headers, event.id)
                await stream.event(event)
        if result is None:
            raise Interrupted("runnerd gave no result; its log says why")
        return result, stream

    def _stream(self, asked: Asked, headers: dict[str, str], job: str) -> Stream:
        to = asked.events_to or f"{self._bus.subjects.prefix}.evt.{asked.request.delivery.tenant}.{job}"
        reply = Reply("", self._bus.streams, self._bus.counters, headers)
        keep = self._events().keep if asked.output == "durable" else None
        return Stream(reply, to, self._bus, self._services, self._bounds.stream_pending_bytes, keep)
