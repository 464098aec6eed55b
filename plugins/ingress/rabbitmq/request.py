"""A job's message: what its properties and headers ask for. Plain code, no I/O."""

import math
import time
from collections.abc import Mapping
from typing import Any, Literal, get_args

from aiormq.abc import DeliveredMessage
from msgspec import Struct
from pamqp.commands import Basic

from runnerd import JSON, MSGPACK, TOKEN, Delivery

from .refusal import BAD_REQUEST, TOO_LARGE, Refusal
from .topology import Address

TRACE_BYTES = 2048
"""Longest value of a header of the trace context: they go back with every answer."""

_TRACE = ("traceparent", "tracestate", "baggage")
_JSON_NAMES = ("", JSON, "*/*", "application/*")
_MSGPACK_NAMES = (MSGPACK, "application/x-msgpack")

Output = Literal["inline", "events", "durable", "none"]
"""`rd-output`: output is in the result · and goes to the exchange of events while the job runs · persistent, and each piece
confirmed before the next is sent · it is nowhere but in the record."""

_OUTPUT: tuple[Output, ...] = get_args(Output)
_TO_QUEUES = ("inline", "events")
"""Those with which a sender may name another place for output."""

Headers = Mapping[str, str]


class Request(Struct, frozen=True, kw_only=True):
    """One job's delivery, and where its output goes while it runs."""

    delivery: Delivery
    stream_to: str = ""
    """The queue that gets its output; empty for the reply queue."""
    output: Output = "inline"


def folded(properties: Basic.Properties) -> dict[str, str]:
    """Headers as text, under their names in lower case: senders spell them as they like, and give numbers where text is meant.

    What is neither text nor a number is left out.
    """
    return {name.lower(): text for name, value in (properties.headers or {}).items() if (text := _text(value)) is not None}


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, (int, float)) else None


def answer_type(properties: Basic.Properties, headers: Headers) -> str:
    """The type in which to answer: the first of `accept` that is known, else the body's own, else JSON."""
    for names in (headers.get("accept", ""), properties.content_type or ""):
        for name in names.split(","):
            media = name.partition(";")[0].strip().lower()
            if media in _MSGPACK_NAMES:
                return MSGPACK
            if media == JSON:
                return JSON
    return JSON


def trace(headers: Headers) -> dict[str, str]:
    """W3C trace context, as it goes back with every answer. What is too long for that is left out."""
    return {name: value for name in _TRACE if 0 < len(value := headers.get(name, "")) <= TRACE_BYTES and value.isascii()}


def job_id(properties: Basic.Properties, headers: Headers) -> str:
    """The job's id, as its sender wrote it: the property `message_id`, or the header `rd-job-id`, which counts more."""
    return headers.get("rd-job-id") or properties.message_id or ""


def read_request(message: DeliveredMessage, address: Address, fallback_id: str, body_bytes_max: int) -> Request:
    """Check what the message says beside its body. Raises Refusal, naming the property or header and the fix."""
    properties = message.header.properties
    headers = folded(properties)
    if len(message.body) > body_bytes_max:
        raise Refusal(TOO_LARGE, f"body: {len(message.body)} bytes, and at most {body_bytes_max} are taken here")
    tokens = (("tenant", address.tenant), ("language", address.lang))
    for what, token in (*((f"{name} in the routing key", token) for name, token in tokens), ("message_id", job_id(properties, headers))):
        if token and not TOKEN.fullmatch(token):
            raise Refusal(BAD_REQUEST, f"{what}: {token[:80]!r} must match [A-Za-z0-9_-]{{1,64}}")
    _check(headers)
    output = _output(headers)
    first_s = came_s(headers)
    delivery = Delivery(
        body=message.body,
        content_type=properties.content_type or JSON,
        content_encoding=properties.content_encoding or "",
        tenant=address.tenant,
        lang=address.lang,
        job_id=job_id(properties, headers),
        message_id=fallback_id,
        stream="rd-stream" in headers or "rd-stream-to" in headers or output in ("events", "durable"),
        wall_s=_seconds(headers, "rd-timeout-ms"),
        queue_ttl_s=_smaller(_seconds(headers, "rd-queue-ttl-ms"), _expiration_s(properties)),
        retry_on=_names(headers.get("rd-retry-on", "")),
        waited_s=max(0.0, time.time() - first_s) if first_s is not None else 0.0,
        kept=True,
        trace=trace(headers),
    )
    return Request(delivery=delivery, stream_to=headers.get("rd-stream-to", ""), output=output)


def came_s(headers: Headers) -> float | None:
    """When a message that comes again from a retry queue came first, in seconds since 1970; None for any other."""
    try:
        came = float(headers.get("rd-came", ""))
    except ValueError:
        return None
    return came if math.isfinite(came) else None


def _check(headers: Headers) -> None:
    accepted = [name.partition(";")[0].strip().lower() for name in headers.get("accept", "").split(",")]
    if not any(name in _JSON_NAMES or name in _MSGPACK_NAMES for name in accepted):
        raise Refusal(BAD_REQUEST, f"accept: {headers['accept'][:80]!r} is not known: use {JSON} or {MSGPACK}")
    if headers.get("rd-stream", "reply") != "reply":
        raise Refusal(BAD_REQUEST, "rd-stream: must be `reply`, or left out")


def _output(headers: Headers) -> Output:
    output = headers.get("rd-output", "inline")
    if output not in _OUTPUT:
        raise Refusal(BAD_REQUEST, f"rd-output: {output[:40]!r} is not known: use {' or '.join(_OUTPUT)}")
    for other in ("rd-stream", "rd-stream-to"):
        if other in headers and output not in _TO_QUEUES:
            raise Refusal(BAD_REQUEST, f"{other}: can't be together with rd-output: {output}: leave out one of the two")
    return output


def _expiration_s(properties: Basic.Properties) -> float | None:
    """A sender that waits no longer: the broker forgets what is still in the queue, and we what came out of it."""
    try:
        return max(0.001, int(properties.expiration or "") / 1000)
    except ValueError:
        return None


def _smaller(one: float | None, other: float | None) -> float | None:
    return min((each for each in (one, other) if each is not None), default=None)


def _names(text: str) -> tuple[str, ...]:
    """Names with commas between them."""
    return tuple(filter(None, (name.strip().lower() for name in text.split(","))))


def _seconds(headers: Headers, name: str) -> float | None:
    text = headers.get(name)
    if text is None:
        return None
    try:
        milliseconds = float(text)
    except ValueError:
        milliseconds = math.nan
    if not (math.isfinite(milliseconds) and milliseconds > 0):
        raise Refusal(BAD_REQUEST, f"{name}: {text[:40]!r} must be a number of milliseconds above 0")
    return milliseconds / 1000
