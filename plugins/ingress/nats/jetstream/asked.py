"""What a message of the stream asks for. Plain code, no I/O."""

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import msgspec
from msgspec import Struct

from ..refusal import BAD_REQUEST, Refusal
from ..request import Request, read_request
from .bodies import Announced, announced
from .message import Origin, address, queue_ttl_s, result_ttl, scheduled_by

Output = Literal["inline", "events", "durable", "none"]
"""`Rd-Output`: output is in the result · and published, and stored, while the job runs · each piece of it acknowledged before
the next is sent · it is nowhere but in the record."""

_OUTPUT: tuple[Output, ...] = get_args(Output)
_TO_SUBJECTS = ("inline", "events")
"""Those with which output may go to a subject of the sender's, where nobody acknowledges anything."""
_NS = 1_000_000_000


class Asked(Struct, frozen=True, kw_only=True):
    """One durable job, and what is to become of its output and its result."""

    request: Request
    output: Output
    events_to: str
    """Subject below which its events are published, empty for the job's own."""
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
    output = _output(headers)
    events_to = _events_to(headers, output, forbidden)
    delivery = msgspec.structs.replace(
        request.delivery,
        message_id=origin.id,
        stream=bool(events_to) or output in ("events", "durable"),
        queue_ttl_s=min(times, default=None),
        waited_s=max(0.0, now - origin.stored_ns / _NS),
        kept=True,
    )
    return Asked(
        request=msgspec.structs.replace(request, delivery=delivery),
        output=output,
        events_to=events_to,
        result_ttl=result_ttl(headers),
        parts=announced(where.tenant, request.delivery.job_id, body, headers, parts_bytes),
    )


def _output(headers: Mapping[str, str]) -> Output:
    output = headers.get("rd-output", "inline")
    if output not in _OUTPUT:
        raise Refusal(BAD_REQUEST, f"Rd-Output: {output[:40]!r} is not known: use {' or '.join(_OUTPUT)}")
    return output


def _events_to(headers: Mapping[str, str], output: Output, forbidden: Callable[[str], str]) -> str:
    """The subject that the header names, empty for none. Raises Refusal."""
    if "rd-stream" in headers:
        raise Refusal(BAD_REQUEST, "Rd-Stream: has no reply subject to stream to here: use Rd-Output: events, or Rd-Stream-To")
    to = headers.get("rd-stream-to", "")
    if to and (problem := forbidden(to)):
        raise Refusal(BAD_REQUEST, f"Rd-Stream-To: {problem}")
    if to and output not in _TO_SUBJECTS:
        raise Refusal(BAD_REQUEST, f"Rd-Stream-To: can't be together with Rd-Output: {output}: leave out one of the two")
    return to
