"""Frames of an agent's wire, see `runnerd.agent.frames`, by msgspec, which the agent does not have."""

from typing import Any

import msgspec

from ..agent.frames import HEAD, FrameError, Header

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


def pack(header: Header, body: bytes | memoryview = b"") -> bytes:
    """One frame as bytes."""
    head = _encode(header)
    return b"".join((HEAD.pack(len(head), len(body)), head, body))


def header(data: memoryview) -> Header:
    """A header as it came. Raises FrameError."""
    try:
        return _decode(data)
    except (ValueError, RecursionError) as error:  # a job that took its agent over may have written it
        raise FrameError(f"a header is no JSON object: {error}") from None
