"""Questions about a job, by RPC: what became of it, and to cancel it, wherever it is."""

import asyncio

from aio_pika import Message
from aiormq.abc import DeliveredMessage

from runnerd import TOKEN, Result, RunnerdError, Services, State

from .bus import Bus, NotSent
from .input import KEYS, Input, InputBounds
from .link import Link, steady
from .log import log
from .refusal import BAD_REQUEST, BROKEN, NOT_FOUND, UNAVAILABLE, Refusal
from .reply import DIRECT, Reply, reply_problem

_VERBS = ("status", "cancel")
_PREFETCH = 256


class Control:
    """Answers `ctl.<tenant>.<job>.status` and `….cancel`, and hears what is said to all daemons: so much at once as `bounds` say."""

    def __init__(self, bus: Bus, services: Services, tasks: asyncio.TaskGroup, bounds: InputBounds) -> None:
        self._bus = bus
        self._services = services
        self._tasks = tasks
        self._bounds = bounds
        self._input = Input(bus, services, tasks, bounds)
        self._asked = 0

    async def begin(self, link: Link) -> None:
        """Listen in a new generation: to questions, of which any daemon gets one, and to what is told to all."""
        topology = self._bus.topology
        channel = await steady(link.consumer_channel(_PREFETCH))
        await steady(channel.basic_consume(topology.control, self._ask, no_ack=True))
        heard = await steady(channel.queue_declare("", exclusive=True, auto_delete=True))
        for key in ("cast.#", *KEYS):
            await steady(channel.queue_bind(heard.queue or "", topology.control, key))
        await steady(channel.basic_consume(heard.queue or "", self._hear, no_ack=True))

    async def _ask(self, message: DeliveredMessage) -> None:
        """Take a question off the bus."""
        reply = Reply(message.header.properties, self._bounds.message_bytes)
        problem = reply_problem(reply.to, self._bounds.reply_prefixes, self._bus.topology) if reply.to else "there is none"
        if problem:
            self._bus.counters.count("refused_reply", queue=reply.to[:100], problem=problem)
        elif self._asked >= self._bounds.most:
            self._bus.counters.count("refused_saturated")
        else:
            self._asked += 1
            self._tasks.create_task(self._answer(message, reply))

    async def _answer(self, message: DeliveredMessage, reply: Reply) -> None:
        try:
            answer = await self._answered(message, reply)
        except Refusal as refusal:
            answer = reply.refusal(refusal)
        except RunnerdError as failure:
            answer = reply.refusal(Refusal(UNAVAILABLE, f"can't be told now: {failure}"))
        except Exception:  # noqa: BLE001 - whatever the daemon raises, who asked gets an answer and the others go on
            log.exception("question failed in runnerd")
            answer = reply.refusal(Refusal(BROKEN, "runnerd failed; its log says how"))
        finally:
            self._asked -= 1
        try:
            await self._bus.publish(answer, reply.to, mandatory=not reply.to.startswith(DIRECT))
        except NotSent as error:
            self._bus.counters.count("answers_lost", cause=str(error))

    async def _answered(self, message: DeliveredMessage, reply: Reply) -> Message:
        """The answer to a question. Raises Refusal, and what the daemon raises."""
        tenant, job, verb = _tokens(message.routing_key)
        if verb not in _VERBS:
            raise Refusal(BAD_REQUEST, f"{verb[:80]!r} is not known: the routing key is ctl.<tenant>.<job>.status or ….cancel")
        if not (TOKEN.fullmatch(tenant) and TOKEN.fullmatch(job)):
            raise Refusal(BAD_REQUEST, "tenant and job in the routing key must match [A-Za-z0-9_-]{1,64}")
        reply.job_id = job
        answer = await (self._services.status(tenant, job) if verb == "status" else self._cancel(tenant, job))
        if answer is None:
            raise Refusal(NOT_FOUND, "there is no such job here, or no daemon has seen it yet")
        if isinstance(answer, Result):
            return reply.result(answer)
        return reply.data("status", State(id=job, state=answer), {"Rd-Status": answer})

    async def _cancel(self, tenant: str, job: str) -> Result | None:
        """Cancel a job, wherever it is: here, at another daemon, or in a queue where nobody has seen it yet."""
        answer = await self._services.cancel(tenant, job, ahead=True)
        if answer is not None and answer.status == "cancelled":
            await self._bus.publish(
                Message(b"", message_id=f"{job}.cancel"),
                f"cast.{tenant}.{job}.cancel",
                exchange=self._bus.topology.control,
                mandatory=False,
            )
        return answer

    async def _hear(self, message: DeliveredMessage) -> None:
        """Something is said to all: to a job, or that another daemon recorded one as cancelled; that one ends, if it runs here."""
        if not (message.routing_key or "").startswith("cast."):
            self._input.receive(message)
            return
        tenant, job, _ = _tokens(message.routing_key)
        if not (TOKEN.fullmatch(tenant) and TOKEN.fullmatch(job)):
            return
        if self._asked >= self._bounds.most:
            self._bus.counters.count("casts_missed")
            return
        self._asked += 1
        self._tasks.create_task(self._end(tenant, job))

    async def _end(self, tenant: str, job: str) -> None:
        try:
            await self._services.cancel(tenant, job)
        except RunnerdError as failure:
            self._bus.counters.count("casts_failed", job=job, cause=str(failure))
        except Exception:  # noqa: BLE001 - whatever the daemon raises, the others go on
            log.exception("a cancel failed in runnerd", job=job)
        finally:
            self._asked -= 1


def _tokens(routing_key: str | None) -> tuple[str, str, str]:
    """Tenant, job and verb of a routing key; empty where it has another form."""
    tokens = (routing_key or "").split(".")
    return (tokens[1], tokens[2], tokens[3]) if len(tokens) == 4 else ("", "", "")
