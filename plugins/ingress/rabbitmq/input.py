"""What is said to jobs while they run: more standard input, and answers to their calls of tools.

Every daemon hears it, and the one that has the job, or had it until a while ago, says what became of it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from aio_pika import Message
from aiormq.abc import DeliveredMessage
from msgspec import Struct

from runnerd import TOKEN, Answered, Conflict, NotFound, OverLimit, Rejected, Services, Taken

from .bus import Bus, NotSent
from .log import log
from .refusal import BAD_REQUEST, BROKEN, CONFLICT, TOO_LARGE, UNAVAILABLE, Refusal
from .reply import DIRECT, Reply, reply_problem
from .request import folded

KEYS = ("stdin.#", "tool.#")
"""`stdin.<tenant>.<job>` and `tool.<tenant>.<job>.<call>`."""
_END = "rd-eof"
"""The header of a last piece of input, or of an empty one after it."""
_FAILED = "rd-failed"
"""The header of an answer that says why a tool failed."""


class InputBounds(Struct, frozen=True, kw_only=True):
    """How much is in hand at once, and where answers go."""

    most: int
    most_bytes: int
    message_bytes: int
    reply_prefixes: tuple[str, ...]


class Input:
    """Passes on what is said in the order in which it came. Who waits for each answer is never too fast."""

    def __init__(self, bus: Bus, services: Services, tasks: asyncio.TaskGroup, bounds: InputBounds) -> None:
        self._bus = bus
        self._services = services
        self._tasks = tasks
        self._bounds = bounds
        self._held = 0
        self._held_bytes = 0

    def receive(self, message: DeliveredMessage) -> None:
        """Take a message off the bus."""
        reply = Reply(message.header.properties, self._bounds.message_bytes)
        said = self._said(message)
        if said is None:
            return  # no daemon has such a job
        problem = reply_problem(reply.to, self._bounds.reply_prefixes, self._bus.topology) if reply.to else "there is none"
        if problem:
            self._bus.counters.count("refused_reply", queue=reply.to[:100], problem=problem)
            return
        act, done = said
        reply.job_id = done.id
        if self._held >= 2 * self._bounds.most:  # to refuse is work as well
            self._bus.counters.count("refused_saturated")
            return
        size = len(message.body)
        self._held += 1
        self._held_bytes += size
        full = self._held > self._bounds.most or (self._held > 1 and self._held_bytes > self._bounds.most_bytes)
        self._tasks.create_task(self._say(reply, None if full else act, done, size))

    def _said(self, message: DeliveredMessage) -> tuple[Callable[[], Awaitable[None]], Taken | Answered] | None:
        """What to do, and what is said of it then; None where the routing key names no job."""
        verb, *tokens = (message.routing_key or "").split(".")
        headers = folded(message.header.properties)
        match verb, tokens:
            case "stdin", [tenant, job] if TOKEN.fullmatch(tenant) and TOKEN.fullmatch(job):
                end = _END in headers
                feed = partial(self._services.feed, tenant, job, message.body, end=end)
                return feed, Taken(id=job, bytes=len(message.body), end=end)
            case "tool", [tenant, job, call] if TOKEN.fullmatch(tenant) and TOKEN.fullmatch(job):
                answer = partial(self._services.answer, tenant, job, call, message.body, failed=_FAILED in headers)
                return answer, Answered(id=job, call=call[:80])
        return None

    async def _say(self, reply: Reply, act: Callable[[], Awaitable[None]] | None, done: Taken | Answered, size: int) -> None:
        try:
            answer = await self._answered(reply, act, done)
            if answer is not None:
                await self._bus.publish(answer, reply.to, mandatory=not reply.to.startswith(DIRECT))
        except NotSent as error:
            self._bus.counters.count("answers_lost", cause=str(error))
        finally:
            self._held -= 1
            self._held_bytes -= size

    async def _answered(self, reply: Reply, act: Callable[[], Awaitable[None]] | None, done: Taken | Answered) -> Message | None:
        """What became of it; None where another daemon says so."""
        if act is None:
            self._bus.counters.count("refused_saturated")
            return reply.refusal(Refusal(UNAVAILABLE, "too much is said to jobs at once: send it again"))
        try:
            await act()
        except NotFound:
            return None
        except Rejected as error:
            return reply.refusal(Refusal(BAD_REQUEST, str(error)))
        except Conflict as error:
            return reply.refusal(Refusal(CONFLICT, str(error)))
        except OverLimit as error:
            return reply.refusal(Refusal(TOO_LARGE, str(error)))
        except Exception:  # noqa: BLE001 - whatever the daemon raises, who sent it gets an answer and the others go on
            log.exception("what was said to a job failed in runnerd", job=done.id)
            return reply.refusal(Refusal(BROKEN, "runnerd failed; its log says how"))
        return reply.data("stdin" if isinstance(done, Taken) else "answered", done, {})
