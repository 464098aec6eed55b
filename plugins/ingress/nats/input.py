"""What is said to jobs while they run: more standard input, and answers to their calls of tools.

Every daemon hears it, and the one that has the job, or had it until a while ago, says what became of it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from nats.aio.msg import Msg

from runnerd import TOKEN, Answered, Conflict, NotFound, OverLimit, Rejected, Services, Taken

from .bus import Bus
from .log import log
from .refusal import BAD_REQUEST, BROKEN, CONFLICT, TOO_LARGE, UNAVAILABLE, Refusal
from .reply import Reply
from .request import folded

_END = "rd-eof"
"""The header of a last piece of input, or of an empty one after it."""
_FAILED = "rd-failed"
"""The header of an answer that says why a tool failed."""


class Input:
    """Passes on what is said in the order in which it came. Who waits for each answer is never too fast.

    At most `most` messages of `most_bytes` together are in hand at once.
    """

    def __init__(self, bus: Bus, services: Services, tasks: asyncio.TaskGroup, *, most: int, most_bytes: int, retry_after_ms: int) -> None:
        self._bus = bus
        self._services = services
        self._tasks = tasks
        self._most = most
        self._most_bytes = most_bytes
        self._retry_after_ms = retry_after_ms
        self._held = 0
        self._held_bytes = 0

    async def stdin(self, msg: Msg) -> None:
        """Take a piece of standard input off the bus: `stdin.<tenant>.<job>`."""
        tenant, job = self._bus.subjects.tokens(msg.subject)
        headers = folded(msg.headers)
        reply = await self._way(msg, headers, tenant, job)
        if reply is not None:
            end = _END in headers
            taken = Taken(id=job, bytes=len(msg.data), end=end)
            self._take(reply, partial(self._services.feed, tenant, job, msg.data, end=end), taken, len(msg.data))

    async def answer(self, msg: Msg) -> None:
        """Take the answer to a call off the bus: `tool.<tenant>.<job>.<call>`."""
        tenant, job, call = self._bus.subjects.tokens(msg.subject)
        headers = folded(msg.headers)
        reply = await self._way(msg, headers, tenant, job)
        if reply is not None:
            said = partial(self._services.answer, tenant, job, call, msg.data, failed=_FAILED in headers)
            self._take(reply, said, Answered(id=job, call=call[:80]), len(msg.data))

    async def _way(self, msg: Msg, headers: dict[str, str], tenant: str, job: str) -> Reply | None:
        """The way back to who sent it; None where it is not taken."""
        reply = self._bus.reply(msg, headers)
        if reply is None or not (TOKEN.fullmatch(tenant) and TOKEN.fullmatch(job)):
            return None  # no daemon has such a job
        reply.job_id = job
        size = len(msg.data)
        if self._held >= self._most or (self._held and self._held_bytes + size > self._most_bytes):
            self._bus.counters.count("refused_saturated")
            await reply.refuse(Refusal(UNAVAILABLE, "too much is said to jobs at once: send it again", self._retry_after_ms))
            return None
        return reply

    def _take(self, reply: Reply, act: Callable[[], Awaitable[None]], done: Taken | Answered, size: int) -> None:
        self._held += 1
        self._held_bytes += size
        self._tasks.create_task(self._say(reply, act, done, size))

    async def _say(self, reply: Reply, act: Callable[[], Awaitable[None]], done: Taken | Answered, size: int) -> None:
        try:
            await act()
            await reply.data("stdin" if isinstance(done, Taken) else "answered", done)
        except NotFound:
            return  # another daemon has it, and answers
        except Rejected as error:
            await reply.refuse(Refusal(BAD_REQUEST, str(error)))
        except Conflict as error:
            await reply.refuse(Refusal(CONFLICT, str(error)))
        except OverLimit as error:
            await reply.refuse(Refusal(TOO_LARGE, str(error)))
        except Exception:  # noqa: BLE001 - whatever the daemon raises, who sent it gets an answer and the others go on
            log.exception("what was said to a job failed in runnerd", job=done.id)
            await reply.refuse(Refusal(BROKEN, "runnerd failed; its log says how"))
        finally:
            self._held -= 1
            self._held_bytes -= size
