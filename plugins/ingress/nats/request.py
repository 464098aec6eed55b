"""A run request: what the headers of a message ask for. Plain code, no I/O."""

import math
from collections.abc import Mapping

from msgspec import Struct

from runnerd import JSON, MSGPACK, TOKEN, Delivery

from .refusal import BAD_REQUEST, TOO_LARGE, Refusal

CORRELATION_BYTES = 512
"""Longest correlation id: it goes back with every answer."""

TRACE_BYTES = 2048
"""Longest value of a header of the trace context: they go back with every answer."""

_TRACE = ("traceparent", "tracestate", "baggage")
_JSON_NAMES = ("", JSON, "*/*", "application/*")
_MSGPACK_NAMES = (MSGPACK, "application/x-msgpack")


class Request(Struct, frozen=True, kw_only=True):
    """One job's delivery, and where its output goes while it runs."""

    delivery: Delivery
    stream_to: str = ""
    """Subject under which `.out`, `.err` and `.status` are published; empty: output goes to the reply subject."""


def folded(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Headers under their names in lower case: senders spell them as they like."""
    return {name.lower(): value for name, value in headers.items()} if headers else {}


def answer_type(headers: Mapping[str, str]) -> str:
    """The type in which to answer: the first of `Accept` that is known, else the body's own, else JSON."""
    wanted = (headers.get("accept", ""), headers.get("content-type", ""))
    for names in wanted:
        for name in names.split(","):
            media = name.partition(";")[0].strip().lower()
            if media in _MSGPACK_NAMES:
                return MSGPACK
            if media == JSON:
                return JSON
    return JSON


def correlation(headers: Mapping[str, str]) -> str:
    """The correlation id, empty where there is none that can go back."""
    text = headers.get("rd-correlation-id", "")
    return text if len(text.encode()) <= CORRELATION_BYTES else ""


def trace(headers: Mapping[str, str]) -> dict[str, str]:
    """W3C trace context, as it goes back with every answer. What is too long for that is left out."""
    return {name: value for name in _TRACE if 0 < len(value := headers.get(name, "")) <= TRACE_BYTES and value.isascii()}


def job_id(headers: Mapping[str, str]) -> str:
    """The job's id, as its sender wrote it. `Nats-Msg-Id` counts too: many senders set it and nothing else."""
    return headers.get("rd-job-id") or headers.get("nats-msg-id") or ""


def read_request(tenant: str, lang: str, body: bytes, headers: Mapping[str, str], body_bytes_max: int) -> Request:
    """Check what the headers say. `headers` are folded. Raises Refusal, naming the header and the fix."""
    if len(body) > body_bytes_max:
        raise Refusal(TOO_LARGE, f"body: {len(body)} bytes, and at most {body_bytes_max} are taken here")
    for what, token in (("tenant in the subject", tenant), ("language in the subject", lang), ("Rd-Job-Id", job_id(headers))):
        if token and not TOKEN.fullmatch(token):
            raise Refusal(BAD_REQUEST, f"{what}: {token[:80]!r} must match [A-Za-z0-9_-]{{1,64}}")
    _check_types(headers)
    if len(headers.get("rd-correlation-id", "").encode()) > CORRELATION_BYTES:
        raise Refusal(BAD_REQUEST, f"Rd-Correlation-Id: longer than {CORRELATION_BYTES} bytes")
    if headers.get("rd-stream", "reply") != "reply":
        raise Refusal(BAD_REQUEST, "Rd-Stream: must be `reply`, or left out")
    delivery = Delivery(
        body=body,
        content_type=headers.get("content-type") or JSON,
        content_encoding=headers.get("content-encoding", ""),
        tenant=tenant,
        lang=lang,
        job_id=job_id(headers),
        stream="rd-stream" in headers or "rd-stream-to" in headers,
        wall_s=_seconds(headers, "Rd-Timeout-Ms"),
        queue_ttl_s=_seconds(headers, "Rd-Queue-Ttl-Ms"),
        retry_on=_names(headers.get("rd-retry-on", "")),
        trace=trace(headers),
    )
    return Request(delivery=delivery, stream_to=headers.get("rd-stream-to", ""))


def _check_types(headers: Mapping[str, str]) -> None:
    if "accept" not in headers:
        return
    accepted = [name.partition(";")[0].strip().lower() for name in headers.get("accept", "").split(",")]
    if not any(name in _JSON_NAMES or name in _MSGPACK_NAMES for name in accepted):
        raise Refusal(BAD_REQUEST, f"Accept: {headers['accept'][:80]!r} is not known: use {JSON} or {MSGPACK}")


def _names(text: str) -> tuple[str, ...]:
    """Names with commas between them."""
    return tuple(filter(None, (name.strip().lower() for name in text.split(","))))


def _seconds(headers: Mapping[str, str], name: str) -> float | None:
    text = headers.get(name.lower())
    if text is None:
        return None
    try:
        milliseconds = float(text)
    except ValueError:
        milliseconds = math.nan
    if not (math.isfinite(milliseconds) and milliseconds > 0):
        raise Refusal(BAD_REQUEST, f"{name}: {text[:40]!r} must be a number of milliseconds above 0")
    return milliseconds / 1000
