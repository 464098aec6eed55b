"""Jobs: a message on a run subject becomes a job in hand, and its result the answer."""

import asyncio
from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace
from nats.aio.msg import Msg

from runnerd import Interrupted, Result, Saturated, Services

from .bus import Bus
from .endpoint import Endpoint
from .log import log
from .refusal import BAD_REQUEST, BROKEN, NOT_FOUND, UNAVAILABLE, Refusal
from .reply import Reply
from .request import Request, folded, read_request
from .room import Room
from .stream import Stream


class RunBounds(Struct, frozen=True, kw_only=True):
    """How much of a job is taken, and held."""

    body_bytes: int
    stream_pending_bytes: int
    retry_after_ms: int


class Run:
    """Takes jobs while there is room, and answers each. One task per job, all children of `tasks`."""

    def __init__(
        self, bus: Bus, services: Services, room: Room, tasks: asyncio.TaskGroup, *, endpoint: Endpoint, bounds: RunBounds
    ) -> None:
        self._bus = bus
        self._services = services
        self._room = room
        self._tasks = tasks
        self._endpoint = endpoint
        self._bounds = bounds
        self._jobs: set[asyncio.Task[None]] = set()
        self.statuses: dict[str, int] = {}
        """Results by status."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when room for jobs came, or went."""

    async def receive(self, msg: Msg) -> None:
        """Take a message off the bus. Never waits for a job.

        Nothing is run for nobody: a message without a way back is counted and forgotten.
        """
        headers = folded(msg.headers)
        reply = self._bus.reply(msg, headers)
        if reply is None:
            return
        began = self._endpoint.begin()
        try:
            request = self._read(msg, headers)
            self._take()
        except Refusal as refusal:
            self._endpoint.end(began, await self._refuse(msg, reply, refusal))
            return
        job = self._tasks.create_task(self._run(request, reply, began))
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        if self._room.left(self._services.free()) <= 0:
            self.on_change()

    async def finish(self, grace_s: float, close_s: float) -> None:
        """Wait for the jobs in hand. Those that are not done after `grace_s` are cancelled and given back."""
        if self._jobs:
            await asyncio.wait(self._jobs, timeout=grace_s)
        for job in self._jobs:
            job.cancel()
        if self._jobs:
            await asyncio.wait(self._jobs, timeout=close_s)

    def _read(self, msg: Msg, headers: dict[str, str]) -> Request:
        tenant, lang = self._bus.subjects.tokens(msg.subject)
        request = read_request(tenant, lang, msg.data, headers, self._bounds.body_bytes)
        if lang not in self._services.languages:
            known = ", ".join(sorted(self._services.languages))
            raise Refusal(NOT_FOUND, f"language {lang[:80]!r} is not known here: use one of {known}")
        if request.stream_to:
            problem = self._bus.forbidden(msg, request.stream_to)
            if problem:
                raise Refusal(BAD_REQUEST, f"Rd-Stream-To: {problem}")
        return request

    def _take(self) -> None:
        if not self._room.take(self._services.free()):
            self._bus.counters.count("refused_saturated")
            raise self._unavailable("draining" if self._room.closed else "saturated")

    async def _refuse(self, msg: Msg, reply: Reply, refusal: Refusal) -> str:
        """What can never run has a result, as everywhere; what could run later has none."""
        if refusal.code >= BROKEN:
            return await reply.refuse(refusal)
        self._bus.counters.count("refused_request", reason=refusal.reason)
        tenant, lang = self._bus.subjects.tokens(msg.subject)
        result = Result(id=reply.job_id, tenant=tenant[:64], lang=lang[:64], status="rejected", reason=refusal.reason)
        return await reply.result(result, code=refusal.code)

    async def _run(self, request: Request, reply: Reply, began: int) -> None:
        """One job, from here to its answer. Raises nothing: a task that failed would end the others."""
        error = ""
        self._room.started()  # the daemon counts the job itself as soon as `submit` begins: in this same step of the loop
        try:
            error = await self._answer(request, reply)
        except Saturated as refusal:
            self._bus.counters.count("refused_saturated")
            error = await reply.refuse(self._unavailable("saturated", int(refusal.retry_after_s * 1000)))
        except Interrupted as refusal:
            error = await reply.refuse(self._unavailable(f"given back: {refusal}"))
        except asyncio.CancelledError:
            error = await reply.refuse(self._unavailable("given back: this daemon stops"))
        except Exception:  # noqa: BLE001 - whatever the daemon raises, its caller gets an answer and the others go on
            log.exception("job failed in runnerd", job=reply.job_id)
            error = await reply.refuse(Refusal(BROKEN, "runnerd failed; its log says how"))
        finally:
            self._room.done()
            self._endpoint.end(began, error)
            self.on_change()

    async def _answer(self, request: Request, reply: Reply) -> str:
        stream = self._stream(request, reply) if request.delivery.stream else None
        error: str | None = None

        def lost(pieces: int) -> None:
            if stream is not None:
                stream.lose(pieces)

        async for event in self._services.submit(replace(request.delivery, lost=lost)):
            if isinstance(event, Result):
                self.statuses[event.status] = self.statuses.get(event.status, 0) + 1
                error = await reply.result(event, more=stream.result_headers() if stream else {})
                continue
            if stream is None:  # the body asked for it, and no header: to the reply subject
                stream = self._stream(request, reply)
            await stream.event(event)
        if error is None:
            return await reply.refuse(Refusal(BROKEN, "runnerd gave no result; its log says why"))
        return error

    def _stream(self, request: Request, reply: Reply) -> Stream:
        return Stream(reply, request.stream_to, self._bus, self._services, self._bounds.stream_pending_bytes)

    def _unavailable(self, why: str, retry_after_ms: int | None = None) -> Refusal:
        return Refusal(UNAVAILABLE, f"{why}: try again", retry_after_ms or self._bounds.retry_after_ms)
