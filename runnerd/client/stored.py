"""What JetStream's streams have stored about a job: read without a consumer, by subject and number."""

import msgspec
from nats.aio.msg import Msg

from ..codec import decode_event
from ..errors import Saturated
from ..job import Event, Output, Result, Started, ToolCall
from .denials import Denied
from .wire import Mailbox, Wire, event_of, header

_SOON_S = 0.05
"""How long an event that came may take to be stored, in seconds, until it is looked for again."""


class StoredMessages:
    """Reads single messages; None for one that is not there. Raises Saturated and Denied where there is no such stream for us, and Lost."""

    def __init__(self, wire: Wire, *, stream_prefix: str, domain: str) -> None:
        self._wire = wire
        self._get = f"$JS.{domain}.API.DIRECT.GET.{stream_prefix}" if domain else f"$JS.API.DIRECT.GET.{stream_prefix}"

    async def last(self, stream: str, subject: str) -> Msg | None:
        """The last message of a subject. Who may read this subject alone can ask for it."""
        return await self._asked(f"{stream}.{subject}", b"")

    async def first(self, stream: str, subject: str, seq: int = 1) -> Msg | None:
        """The first message from this number on whose subject matches."""
        return await self._asked(stream, msgspec.json.encode({"seq": seq, "next_by_subj": subject}))

    async def _asked(self, what: str, body: bytes) -> Msg | None:
        msg = await self._wire.request(self._get + what, body)
        return msg if header(msg, "Nats-Sequence") else None


class Watch:
    """Events of a job as they are stored, then its result. What comes meanwhile says that there is more to read.

    So nothing is missed while there was no connection. Where nothing is stored, or not for us, what comes is taken as it is.
    """

    def __init__(self, stored: StoredMessages, box: Mailbox, subject: str) -> None:
        self._stored = stored
        self._box = box
        self._subject = subject
        self._reads = True
        """Whether there is anything to read for us."""
        self._more = True
        """Whether more may be stored than was read."""
        self._due = False
        """Whether something came that is not stored yet."""
        self._number = 0
        """The last message that was read, by its number in the stream."""
        self._seq = 0
        """The same by its number among the events of one start of the job."""
        self._result: Result | None = None

    async def receive(self, timeout_s: float) -> Event | None:
        """See `News.receive`."""
        while True:
            if self._reads and self._more and (event := await self._read()) is not None:
                return event
            if self._result is not None and not self._due:
                return self._result
            due, self._due = self._due, False
            msg = await self._box.get(min(timeout_s, _SOON_S) if due else timeout_s)
            if msg is None:
                self._more = True
                if due:
                    continue
                return None
            found = event_of(msg)
            if isinstance(found, Result):
                self._result = found
            elif isinstance(found, Started | Output | ToolCall) and not self._reads:
                return found
            self._due = self._more = self._is_news(found, int(header(msg, "Rd-Seq") or 0))

    def _is_news(self, found: object, seq: int) -> bool:
        """Whether what came is behind what was read, so that there is more to read."""
        if isinstance(found, Result):
            return self._reads and seq > self._seq + 1
        return isinstance(found, Started) or (isinstance(found, Output | ToolCall) and seq > self._seq)

    async def _read(self) -> Event | None:
        try:
            msg = await self._stored.first("EVT", self._subject, self._number + 1)
        except (Saturated, Denied):
            self._reads = self._number > 0
            msg = None
        if msg is None:
            self._more = False
            return None
        self._number = int(header(msg, "Nats-Sequence"))
        self._seq = int(header(msg, "Rd-Seq") or 0)
        return decode_event(msg.data, header(msg, "Content-Type"))
