"""Output of one job on its way while the job runs. What a slow consumer can't take is dropped and counted."""

from runnerd import Event, Output, Result, Started, cut_output

from .bus import Bus
from .reply import Reply

_ENDINGS = {"started": ".status", "out": ".out", "err": ".err"}


class Stream:
    """Events of one job, in order, numbered by `Rd-Seq`; a gap in the numbers is what was dropped.

    They go to the reply subject, or below `to`. The answer follows on the same connection, so it comes last.
    """

    def __init__(self, reply: Reply, to: str, bus: Bus, pending_bytes: int) -> None:
        self._reply = reply
        self._to = to
        self._bus = bus
        self._pending_bytes = pending_bytes
        self._seq = 0
        self._dropped = 0
        reply.connection = bus.streams
        reply.many = not to

    async def event(self, event: Event) -> None:
        """Send an event if the bus takes it at once. Never waits for the consumer."""
        kind = _kind(event)
        self._seq += 1
        headers = self._reply.headers(kind)
        headers["Rd-Job-Id"] = event.id
        headers["Rd-Seq"] = str(self._seq)
        room = self._reply.room_for(headers)
        body = cut_output(event, self._reply.encode, room) if isinstance(event, Output) else self._reply.encode(event)
        subject = self._to + _ENDINGS[kind] if self._to else self._reply.subject
        if body is None or not await self._bus.streams.offer(subject, body, headers, self._pending_bytes):
            self._dropped += 1
            self._bus.counters.count("events_dropped", job=event.id)

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
        case Result():
            return "result"
