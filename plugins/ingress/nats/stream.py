"""Output of one job on its way while the job runs. What a slow consumer can't take is dropped and counted."""

from collections.abc import Awaitable, Callable
from contextlib import suppress

from runnerd import Event, Output, Result, RunnerdError, Services, Started, ToolCall, cut_output

from .bus import Bus
from .reply import Reply

Keep = Callable[[str, bytes, dict[str, str]], Awaitable[bool]]
"""Sends a message (subject, body, headers) and waits until the bus has it; whether it has."""

_ENDINGS = {"started": ".status", "out": ".out", "err": ".err", "call": ".call"}


class Stream:
    """Events of one job, in order, numbered by `Rd-Seq`; a gap in the numbers is what was dropped.

    They go to the reply subject, or below `to`. The answer follows on the same connection, so it comes last. A call of a tool
    waits for the bus; where it can't be sent, that is its answer. With `keep` all of them wait for the bus, one after the other.
    """

    def __init__(self, reply: Reply, to: str, bus: Bus, services: Services, pending_bytes: int, keep: Keep | None = None) -> None:
        self._reply = reply
        self._services = services
        self._to = to
        self._bus = bus
        self._pending_bytes = pending_bytes
        self._keep = keep
        self._seq = 0
        self._dropped = 0
        reply.connection = bus.streams
        reply.many = not to

    async def event(self, event: Event) -> None:
        """Send an event, if the bus takes it at once or it is to be kept, and a call in any case. Never waits for the consumer."""
        kind = _kind(event)
        self._seq += 1
        headers = self._reply.headers(kind)
        headers["Rd-Job-Id"] = event.id
        headers["Rd-Seq"] = str(self._seq)
        room = self._reply.room_for(headers)
        subject = self._to + _ENDINGS[kind] if self._to else self._reply.subject
        if isinstance(event, ToolCall):
            await self._call(event, subject, headers, room)
            return
        body = cut_output(event, self._reply.encode, room) if isinstance(event, Output) else self._reply.encode(event)
        if body is None or not await self._sent(subject, body, headers):
            self._dropped += 1
            self._bus.counters.count("events_dropped", job=event.id)

    async def _sent(self, subject: str, body: bytes, headers: dict[str, str]) -> bool:
        if self._keep is not None:
            return await self._keep(subject, body, headers)
        return await self._bus.streams.offer(subject, body, headers, self._pending_bytes)

    def lose(self, pieces: int) -> None:
        """Count pieces of output that never came here, since those before them took too long."""
        self._dropped += pieces

    async def _call(self, call: ToolCall, subject: str, headers: dict[str, str], room: int) -> None:
        body = self._reply.encode(call)
        if len(body) > room:
            reason = f"the call is larger than a message of this bus, which takes {room} bytes"
        elif await (self._keep or self._bus.streams.publish)(subject, body, headers):
            return
        else:
            reason = "the bus could not take the call"
        self._dropped += 1
        self._bus.counters.count("calls_lost", job=call.id, cause=reason)
        with suppress(RunnerdError):  # it has its answer, or the job has ended
            await self._services.answer(call.tenant, call.id, call.call, reason.encode(), failed=True)

    def result_headers(self) -> dict[str, str]:
        """What the result's message says about the stream that it ends."""
        self._seq += 1
        return {"Rd-Seq": str(self._seq), "Rd-Dropped": str(self._dropped)}


def _kind(event: Event) -> str:
    match event:
        case Started():
            return "started"
        case Output():
            return "out" if event.stream == "stdout" else "err"
        case ToolCall():
            return "call"
        case Result():
            return "result"
