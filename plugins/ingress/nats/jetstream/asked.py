"""What a message of the stream asks for. Plain code, no I/O."""

from collections.abc import Callable, Mapping

import msgspec
from msgspec import Struct

from ..refusal import BAD_REQUEST, Refusal
from ..request import Request, read_request
from .bodies import Announced, announced
from .message import Origin, address, queue_ttl_s, result_ttl, scheduled_by

EVENTS = "events"
"""Value of `Rd-Output` for output that is published, and stored, while the job runs."""

_OUTPUT = ("inline", EVENTS)
_NS = 1_000_000_000


class Asked(Struct, frozen=True, kw_only=True):
    """One durable job, and what is to become of its output and its result."""

    request: Request
    events_to: str
    """Subject below which its events are published: where the job asks for them, or where the header does."""
    result_ttl: str
    """How long the result stays in the stream, empty for as long as all of them."""
    parts: Announced | None = None
    """The body that is stored in parts, where it is."""


def read_asked(
    subject: str,
    body: bytes,
    headers: Mapping[str, str],
    origin: Origin,
    *,
    prefix: str,
    body_bytes: int,
    parts_bytes: int,
    forbidden: Callable[[str], str],
    now: float,
) -> Asked:
    """Check what the subject and the headers say; `headers` are folded. `now` is in seconds since 1970. The bounds are of a message's
    body and of one that comes in parts.

    `forbidden` says why nothing may be published on a subject, empty where it may. Raises Refusal, naming the header and the fix.
    """
    where = address(subject, prefix)
    scheduler = scheduled_by(headers, prefix)
    if scheduler not in (None, where.tenant):
        raise Refusal(BAD_REQUEST, "Nats-Schedule-Target: names another tenant than the schedule's own subject")
    named = headers.get("rd-job-id", "")
    if where.job and named not in ("", where.job):
        raise Refusal(BAD_REQUEST, f"Rd-Job-Id: {named[:80]!r}, but the subject says {where.job!r}: give one of them")
    if where.job:
        headers = {**headers, "rd-job-id": where.job}  # `Nats-Msg-Id` is the message's own name then, and says nothing of the job
    request = read_request(where.tenant, where.lang, body, headers, body_bytes)
    times = [each for each in (request.delivery.queue_ttl_s, queue_ttl_s(headers, origin.stored_ns)) if each is not None]
    events_to = _events_to(headers, forbidden)
    delivery = msgspec.structs.replace(
        request.delivery,
        message_id=origin.id,
        stream=bool(events_to),
        queue_ttl_s=min(times, default=None),
        waited_s=max(0.0, now - origin.stored_ns / _NS),
        kept=True,
    )
    return Asked(
        request=msgspec.structs.replace(request, delivery=delivery),
        events_to="" if events_to == EVENTS else events_to,
        result_ttl=result_ttl(headers),
        parts=announced(where.tenant, request.delivery.job_id, body, headers, parts_bytes),
    )


def _events_to(headers: Mapping[str, str], forbidden: Callable[[str], str]) -> str:
    """A subject, or `events` for the job's own, or empty for nothing unless the body asks. Raises Refusal."""
    output = headers.get("rd-output", "inline")
    if output not in _OUTPUT:
        raise Refusal(BAD_REQUEST, f"Rd-Output: {output[:40]!r} is not known: use {' or '.join(_OUTPUT)}")
    if "rd-stream" in headers:
        raise Refusal(BAD_REQUEST, "Rd-Stream: has no reply subject to stream to here: use Rd-Output: events, or Rd-Stream-To")
    to = headers.get("rd-stream-to", "")
    if to and (problem := forbidden(to)):
        raise Refusal(BAD_REQUEST, f"Rd-Stream-To: {problem}")
    return to or (EVENTS if output == EVENTS else "")
