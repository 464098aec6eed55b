"""Standard input of interactive jobs, while they run. Every daemon hears it, and the one that has the job answers."""

import asyncio

from msgspec import Struct
from nats.aio.msg import Msg

from runnerd import TOKEN, NotFound, OverLimit, Rejected, Services

from .bus import Bus
from .counters import log
from .refusal import BAD_REQUEST, BROKEN, TOO_LARGE, UNAVAILABLE, Refusal
from .reply import Reply
from .request import folded

_END = "rd-eof"
"""The header of a last piece, or of an empty one after it."""


class Taken(Struct, frozen=True, kw_only=True):
    """The answer about a piece that the job's program has been given, or will be when it starts."""

    id: str
    bytes: int
    end: bool


class Input:
    """Passes pieces on in the order in which they came, at most `most` at once. Who waits for each answer is never too fast."""

    def __init__(self, bus: Bus, services: Services, tasks: asyncio.TaskGroup, *, most: int, retry_after_ms: int) -> None:
        self._bus = bus
        self._services = services
        self._tasks = tasks
        self._most = most
        self._retry_after_ms = retry_after_ms
        self._held = 0

    async def receive(self, msg: Msg) -> None:
        """Take a piece off the bus."""
        headers = folded(msg.headers)
        reply = self._bus.reply(msg, headers)
        if reply is None:
            return
        tenant, job = self._bus.subjects.tokens(msg.subject)
        if not (TOKEN.fullmatch(tenant) and TOKEN.fullmatch(job)):
            return  # no daemon has such a job
        if self._held >= self._most:
            self._bus.counters.count("refused_saturated")
            await reply.refuse(Refusal(UNAVAILABLE, "too many pieces of input at once: send it again", self._retry_after_ms))
            return
        self._held += 1
        reply.job_id = job
        self._tasks.create_task(self._feed(tenant, job, msg.data, reply, end=_END in headers))

    async def _feed(self, tenant: str, job: str, data: bytes, reply: Reply, *, end: bool) -> None:
        try:
            await self._services.feed(tenant, job, data, end=end)
            await reply.data("stdin", Taken(id=job, bytes=len(data), end=end))
        except NotFound:
            return  # another daemon has it, and answers
        except Rejected as error:
            await reply.refuse(Refusal(BAD_REQUEST, str(error)))
        except OverLimit as error:
            await reply.refuse(Refusal(TOO_LARGE, str(error)))
        except Exception:  # noqa: BLE001 - whatever the daemon raises, who sent it gets an answer and the others go on
            log.exception("input failed in runnerd", job=job)
            await reply.refuse(Refusal(BROKEN, "runnerd failed; its log says how"))
        finally:
            self._held -= 1
