"""Answers to one requester: properties, headers, size, and where they may go."""

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from aio_pika import DeliveryMode, Message
from pamqp.commands import Basic

from runnerd import JSON, MSGPACK, Event, Output, Result, Started, ToolCall, cut_output, cut_result

from .refusal import Refusal, Refused
from .request import answer_type, folded, job_id, trace
from .topology import Topology

DIRECT = "amq.rabbitmq.reply-to."
"""Names of pseudo-queues: an answer goes to whoever consumes, or nowhere."""
MARGIN = 1024
"""Bytes of a message that its body leaves free."""

_ENCODE: Mapping[str, Callable[[Any], bytes]] = {JSON: msgspec.json.Encoder().encode, MSGPACK: msgspec.msgpack.Encoder().encode}
_CODES = {"rejected": 400, "cancelled": 499, "dead": 500, "expired": 504}
"""Results that are errors of the service, not of the program."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


def heading(text: str) -> str:
    """`text` as the value of a header: one line of at most 200 characters."""
    return _CONTROL.sub(" ", text)[:200].encode(errors="replace").decode()


def reply_problem(queue: str, prefixes: tuple[str, ...], topology: Topology) -> str:
    """Why no answer may go to `queue`, empty where one may.

    The sender chooses this name and the daemon writes there, so that a careless daemon would submit jobs in the sender's
    stead, or fill other people's queues.
    """
    if topology.own(queue):
        return "one of runnerd's own queues"
    if not any(queue.startswith(prefix) and queue != prefix for prefix in prefixes):
        return f"begins with none of {', '.join(prefixes)}"
    return ""


class Reply:
    """Makes answers to one message. Its own headers never go back, but for the trace context."""

    def __init__(self, properties: Basic.Properties, message_bytes: int, fallback_id: str = "") -> None:
        headers = folded(properties)
        self.to = properties.reply_to or ""
        self.accept = answer_type(properties, headers)
        self.encode = _ENCODE[self.accept]
        self.job_id = heading(job_id(properties, headers)[:64]) or fallback_id
        self._correlation = properties.correlation_id
        self._trace = trace(headers)
        self._room = message_bytes - MARGIN
        self._came = asyncio.get_running_loop().time()
        self.seq = 0
        """Pieces of output that were made, lost ones too."""
        self.dropped = 0
        """Pieces of output that were lost."""

    def result(self, result: Result, code: int | None = None) -> Message:
        """The result, cut where a message takes no more."""
        self.job_id = result.id or self.job_id
        headers: dict[str, Any] = {
            "Rd-Status": result.status,
            "Rd-Duration-Ms": round((asyncio.get_running_loop().time() - self._came) * 1000, 3),
        }
        if result.exit_code is not None:
            headers["Rd-Exit-Code"] = result.exit_code
        code = code or _CODES.get(result.status)
        if code is not None:
            headers |= {"Rd-Error": heading(result.reason or result.status), "Rd-Error-Code": code}
        if self.seq:
            headers |= {"Rd-Seq": self.seq + 1, "Rd-Dropped": self.dropped}
        body, cut = cut_result(result, self.encode, self._room)
        if cut:
            headers["Rd-Cut"] = True
        return self._message("result", body, headers, message_id=f"{self.job_id}.res", durable=not self.to.startswith(DIRECT))

    def lose(self, pieces: int) -> None:
        """Count pieces of output that were lost."""
        self.dropped += pieces

    def refusal(self, refusal: Refusal) -> Message:
        """Why there is no result."""
        headers = {"Rd-Error": heading(refusal.reason), "Rd-Error-Code": refusal.code}
        return self._message("refused", self.encode(Refused(error=refusal.reason, code=refusal.code)), headers)

    def data(self, kind: str, data: object, headers: dict[str, Any]) -> Message:
        """Plain data."""
        return self._message(kind, self.encode(data), headers)

    def event(self, event: Event, *, durable: bool = False) -> tuple[str, Message | None]:
        """An event while the job runs: its kind, and the message, None where it is larger than one may be."""
        kind = _kind(event)
        self.seq += 1
        self.job_id = event.id
        body = cut_output(event, self.encode, self._room) if isinstance(event, Output) else self.encode(event)
        if body is None or len(body) > self._room:
            return kind, None
        return kind, self._message(kind, body, {"Rd-Seq": self.seq}, message_id=f"{event.id}.{self.seq}", durable=durable)

    def _message(self, kind: str, body: bytes, headers: dict[str, Any], *, message_id: str = "", durable: bool = False) -> Message:
        return Message(
            body,
            headers={"Rd-Kind": kind, "Rd-Job-Id": self.job_id, **headers, **self._trace},
            content_type=self.accept,
            correlation_id=self._correlation,
            message_id=message_id or f"{self.job_id}.{kind}",
            type=f"rd.{kind}",
            delivery_mode=DeliveryMode.PERSISTENT if durable else DeliveryMode.NOT_PERSISTENT,
        )


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
