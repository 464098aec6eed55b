"""Output of one job on its way while the job runs. What the broker does not take in time is dropped and counted."""

from contextlib import suppress

from aio_pika import Message

from runnerd import Event, RunnerdError, Services, ToolCall

from .bus import Bus, NotSent
from .reply import DIRECT, Reply
from .request import Request


class Stream:
    """Events of one job, in order, to the queue that its sender names, or to the exchange of events.

    A call of a tool waits for the broker; where it can't be sent, that is its answer.
    """

    def __init__(self, request: Request, reply: Reply, bus: Bus, services: Services, *, message_bytes: int, stall_s: float) -> None:
        """`message_bytes`: the largest message. `stall_s`: how long a piece of output that is not durable waits for the broker."""
        self._request = request
        self._reply = reply
        self._bus = bus
        self._services = services
        self._message_bytes = message_bytes
        self._stall_s = stall_s
        self._durable = request.output == "durable"
        self._late = False
        """Whether the last durable piece was lost: then the next waits no longer than any other, so that the result need not."""

    async def event(self, event: Event) -> None:
        """Send an event."""
        if self._request.output == "none" and not isinstance(event, ToolCall):
            return
        kind, message = self._reply.event(event, durable=self._durable)
        to, exchange = self._place(event.id, kind)
        if isinstance(event, ToolCall):
            await self._call(event, message, to, exchange)
        elif message is None or not await self._sent(message, to, exchange):
            self._reply.lose(1)
            self._bus.counters.count("events_dropped", job=event.id)

    def _place(self, job: str, kind: str) -> tuple[str, str]:
        """Routing key and exchange."""
        to = self._request.stream_to or self._reply.to
        if to and self._request.output not in ("events", "durable"):
            return to, ""
        return f"evt.{self._request.delivery.tenant or 'default'}.{job}.{kind}", self._bus.topology.events

    async def _sent(self, message: Message, to: str, exchange: str) -> bool:
        if not self._durable:
            return await self._bus.offer(message, to, exchange=exchange, patience_s=self._stall_s)
        patience_s = self._stall_s if self._late else None
        try:
            sent = await self._bus.publish(message, to, exchange=exchange, mandatory=False, patience_s=patience_s, often=True)
        except NotSent as error:
            self._bus.counters.count("offers_lost", cause=str(error))
            self._late = True
            return False
        self._late = sent != "sent"
        return not self._late

    async def _call(self, call: ToolCall, message: Message | None, to: str, exchange: str) -> None:
        """Send a call of a tool; where it can't be, that is its answer."""
        reason = f"the call is larger than a message of this bus, which takes {self._message_bytes} bytes"
        if message is not None:
            try:
                mandatory = not to.startswith(DIRECT)
                sent = await self._bus.publish(message, to, exchange=exchange, mandatory=mandatory, patience_s=self._stall_s)
                reason = {"sent": "", "unroutable": "nobody listens who could answer"}.get(sent, "the bus could not take the call")
            except NotSent as error:
                reason = str(error)
        if reason:
            self._bus.counters.count("calls_lost", job=call.id, cause=reason)
            with suppress(RunnerdError):  # it has its answer, or the job has ended
                await self._services.answer(call.tenant, call.id, call.call, reason.encode(), failed=True)
