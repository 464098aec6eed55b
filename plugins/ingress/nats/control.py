"""Questions about a job: what became of it, and to cancel it."""

import asyncio

from nats.aio.msg import Msg

from runnerd import TOKEN, Result, RunnerdError, Services, State

from .bus import Bus
from .connection import NoAnswer
from .endpoint import Endpoint
from .jetstream.queued import Queued
from .log import log
from .refusal import BAD_REQUEST, BROKEN, NOT_FOUND, UNAVAILABLE, Refusal
from .reply import Reply
from .request import folded


class Control:
    """Answers `status` and `cancel`, with the job's result where there is one. At most `most` questions at once."""

    def __init__(
        self,
        bus: Bus,
        services: Services,
        tasks: asyncio.TaskGroup,
        *,
        endpoints: dict[str, Endpoint],
        queued: Queued | None,
        most: int,
        retry_after_ms: int,
    ) -> None:
        self._bus = bus
        self._services = services
        self._tasks = tasks
        self._endpoints = endpoints
        self._queued = queued
        """Where jobs are that no daemon has seen yet, None where there are no such jobs."""
        self._most = most
        self._retry_after_ms = retry_after_ms
        self._asked = 0
        self._heard = 0

    async def receive(self, msg: Msg) -> None:
        """Take a question off the bus."""
        reply = self._bus.reply(msg, folded(msg.headers))
        if reply is None:
            return
        tenant, job, verb = self._bus.subjects.tokens(msg.subject)
        endpoint = self._endpoints.get(verb)
        if endpoint is None:
            await reply.refuse(Refusal(BAD_REQUEST, f"{verb[:80]!r} is not known: use {' or '.join(self._endpoints)}"))
        elif not (TOKEN.fullmatch(tenant) and TOKEN.fullmatch(job)):
            await reply.refuse(Refusal(BAD_REQUEST, "tenant and job in the subject must match [A-Za-z0-9_-]{1,64}"))
        elif self._asked >= self._most:
            self._bus.counters.count("refused_saturated")
            await reply.refuse(Refusal(UNAVAILABLE, "too many questions at once: try again", self._retry_after_ms))
        else:
            self._asked += 1
            self._tasks.create_task(self._answer(endpoint, tenant, job, verb, reply=reply))

    async def _answer(self, endpoint: Endpoint, tenant: str, job: str, verb: str, *, reply: Reply) -> None:
        began = endpoint.begin()
        reply.job_id = job
        error = ""
        try:
            answer = await (self._status(tenant, job) if verb == "status" else self._cancel(tenant, job))
            if answer is None:
                error = await reply.refuse(Refusal(NOT_FOUND, "there is no such job here"))
            elif isinstance(answer, Result):
                await reply.result(answer)
            else:
                await reply.data("status", State(id=job, state=answer), {"Rd-Status": answer})
        except (RunnerdError, NoAnswer) as failure:
            error = await reply.refuse(Refusal(UNAVAILABLE, f"can't be told now: {failure}", self._retry_after_ms))
        except Exception:  # noqa: BLE001 - whatever the daemon raises, who asked gets an answer and the others go on
            log.exception("question failed in runnerd", job=job, verb=verb)
            error = await reply.refuse(Refusal(BROKEN, "runnerd failed; its log says how"))
        finally:
            self._asked -= 1
            endpoint.end(began, error)

    async def _status(self, tenant: str, job: str) -> str | Result | None:
        answer = await self._services.status(tenant, job)
        if answer is None and self._queued is not None:
            return await self._queued.state(tenant, job)
        return answer

    async def _cancel(self, tenant: str, job: str) -> Result | None:
        """Cancel a job, wherever it is: here, at another daemon, or in a stream where nobody has seen it yet."""
        answer = await self._services.cancel(tenant, job, ahead=self._queued is not None)
        if answer is not None and answer.status == "cancelled":
            await self._bus.main.publish(self._bus.subjects.cast(tenant, job), b"", {})
        return answer

    async def hear(self, msg: Msg) -> None:
        """Another daemon recorded a job as cancelled: end it, if it runs here."""
        tenant, job, _ = self._bus.subjects.tokens(msg.subject)
        if not (TOKEN.fullmatch(tenant) and TOKEN.fullmatch(job)):
            return
        if self._heard >= self._most:
            self._bus.counters.count("casts_missed")
            return
        self._heard += 1
        self._tasks.create_task(self._end(tenant, job))

    async def _end(self, tenant: str, job: str) -> None:
        try:
            await self._services.cancel(tenant, job)
        except RunnerdError as failure:
            self._bus.counters.count("casts_failed", job=job, cause=str(failure))
        except Exception:  # noqa: BLE001 - whatever the daemon raises, the others go on
            log.exception("a cancel failed in runnerd", job=job)
        finally:
            self._heard -= 1
