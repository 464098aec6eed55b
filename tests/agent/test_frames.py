"""Frames, as they are cut out of a stream that anybody may have written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from runnerd.agent.frames import BODY_MAX, HEAD, FrameError, Header, Unpacker, begin, pack
from runnerd.executors import framing

HEADERS: list[Header] = [{}, {"type": "run", "args": ["a", "ü", "\x00", "😀"]}, {"n": [1, 2.5, None, True], "deep": {"a": {"b": []}}}]


READERS = {"agent": None, "daemon": framing.header}
"""How a header is read at either end."""


def raw(head: bytes) -> bytes:
    return HEAD.pack(len(head), 0) + head


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("body", [b"", b"\x00\xff" * 1000])
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("packed", [pack, framing.pack])
def test_come_out_as_they_went_in(header: Header, body: bytes, reader: str, packed: Callable[[Header, bytes], bytes]) -> None:
    assert Unpacker(header=READERS[reader]).feed(packed(header, body)) == [(header, body)]
    assert begin(header, len(body)) + body == pack(header, body)


@pytest.mark.parametrize("step", [1, 3, 7, 1000])
def test_in_pieces_of_any_size(step: int) -> None:
    data = b"".join(pack(header, b"body") for header in HEADERS)
    unpacker, frames = Unpacker(), []
    for i in range(0, len(data), step):
        frames += unpacker.feed(data[i : i + step])
    assert frames == [(header, b"body") for header in HEADERS]


NONE: dict[str, Any] = {
    "no JSON": raw(b"{"),
    "no object": raw(b"[]"),
    "two objects": raw(b"{}{}"),
    "nothing": raw(b""),
    "no UTF-8": raw(b'{"a":"\xff"}'),
    "deeper than a parser goes": raw(b'{"a":' + b"[" * 100_000),
    "deeper than that, and whole": raw(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "half a character": raw(b'{"a":["\\ud800"]}'),
    "half a character, as a name": raw(b'{"\\uDFFF":1}'),
    "a number of many digits": raw(b'{"a":' + b"9" * 10_000 + b"}"),
    "a header that is too long": HEAD.pack(1001, 0),
    "a body that is too long": HEAD.pack(2, BODY_MAX + 1),
}


@pytest.mark.parametrize("kind", NONE)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_none(kind: str, reader: str) -> None:
    with pytest.raises(FrameError):
        Unpacker(1000 if kind == "a header that is too long" else 1 << 20, READERS[reader]).feed(NONE[kind])
