"""Jobs, events and results as bytes: JSON and MessagePack, by content type."""

from typing import Any

import msgspec

from .errors import Rejected
from .job import VERSION, Event, Job, Output, Result, Started, ToolCall
from .validity import check_job

JSON = "application/json"
MSGPACK = "application/msgpack"

_decoders: dict[str, Any] = {
    JSON: msgspec.json.Decoder(Job),
    MSGPACK: msgspec.msgpack.Decoder(Job),
}
_encoders: dict[str, Any] = {JSON: msgspec.json.Encoder(), MSGPACK: msgspec.msgpack.Encoder()}


def media_type(content_type: str) -> str:
    """The body type that `content_type` names, without parameters. Empty means JSON.

    Raises Rejected for any other than JSON and MessagePack.
    """
    media = content_type.partition(";")[0].strip().lower() or JSON
    if media == "application/x-msgpack":
        media = MSGPACK
    if media not in _encoders:
        raise Rejected(f"content type {media!r} is not known: use {JSON} or {MSGPACK}")
    return media


def decode_job(body: bytes, content_type: str = JSON) -> Job:
    """Read a job and check all that can be checked without knowing the daemon's languages and limits.

    Raises Rejected, naming the field and the fix.
    """
    media = media_type(content_type)
    try:
        job: Job = _decoders[media].decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Rejected(f"not a job in {media}: {error}") from None
    check_job(job)
    return job


def encode(message: Event | Job, content_type: str = JSON) -> bytes:
    """Write an event, a result or a job."""
    encoded: bytes = _encoders[media_type(content_type)].encode(message)
    return encoded


def decode_result(body: bytes, content_type: str = JSON) -> Result:
    """Read a result. Raises msgspec.DecodeError."""
    if media_type(content_type) == MSGPACK:
        return msgspec.msgpack.decode(body, type=Result)
    return msgspec.json.decode(body, type=Result)


def decode_event(body: bytes, content_type: str = JSON) -> Event:
    """Read any event, the result among them. Raises msgspec.DecodeError."""
    decode = msgspec.msgpack.decode if media_type(content_type) == MSGPACK else msgspec.json.decode
    event: Event = decode(body, type=Event)
    return event


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of Job, Started, Output, ToolCall and Result."""
    refs, components = msgspec.json.schema_components([Job, Started, Output, ToolCall, Result], ref_template="#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"runnerd messages, version {VERSION}",
        "anyOf": list(refs),
        "$defs": components,
    }
