"""The wire between an executor and the agent: frames of a JSON header and raw bytes on one stream.

    frame = header length (u32) · body length (u32) · header (JSON object) · body (raw)      big endian

    to the agent                                  from the agent
    file   {name} body, more: true = goes on      ready   {level, enforced, missing, tenant, tmp}
    run    {tenant, lang, stages, env, …}         loaded  {problem, skipped}        what became of the snapshot that was sent
    state  {} body, more: true = goes on          started {stage}
    stdin  {} body, empty body = end of input     output  {stream, stage} body
    answer {} body, more: true = goes on          call    {} body, more: true = goes on, cut: true = was too long
                                                  ended   {stage, …}                a stage is over
                                                  taken   {size, problem, skipped}  a snapshot follows, or is none or cut off
                                                  state   {} body, more: true = goes on
                                                  file    {name, size} body, more: true = goes on, cut: true = breaks off
                                                  skipped {name, reason}
                                                  done    {}                        the job is over
                                                  lost    {reason}                  the sandbox is, and the job with it

One connection is one lease: closing it ends the job and the sandbox. The agent imports nothing of runnerd.

A job of a session has two fields more in its `run`. `begins: true`: its files may be long in coming, so its clock starts,
and `started` is said, only when they are all there and the program begins. `state: {load, most, on_error}`: whether a snapshot
of variables comes (`state` frames, after the files), how large the one at the end may be (0: none is taken), and whether
it is taken of a program that failed. `stays: true` in it: `taken` with `same: true` says that the snapshot is the one
that was loaded, and does not come again. `size` is that of the snapshot that comes. `shared: true`: with the `run` comes, over a Unix
socket, a descriptor of memory for snapshots, see slate.py; then there are no bodies of `state`, but one frame with the `size` of
what is to be loaded, and none of what was taken. `problem` is one of keeping.WORDS; `skipped` has pairs of a variable's name and an
exception's.

A job that may call tools has `tools: {calls, open, bytes, wait_s}` in its `run`. Each `call` is a line that the program wrote,
without its newline; each is answered once, by a line with it, which the program reads.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

Header = dict[str, Any]

HEAD = struct.Struct("!II")
HEADER_MAX = 4 << 20
"""Bytes of a header: arguments and environment are in it."""
BODY_MAX = 1 << 20
"""Bytes of one body; longer contents come in several frames."""
CHUNK = 64 << 10
"""Bytes of one body that we send."""


_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode  # made once: json.dumps makes one with each call
_encode_plain = json.JSONEncoder(ensure_ascii=False).encode
_decode = json.JSONDecoder().raw_decode


class FrameError(Exception):
    """The peer sent something that is no frame."""


def begin(header: Header, size: int) -> bytes:
    """A frame up to its body of so many bytes."""
    head = _encode(header).encode()
    return HEAD.pack(len(head), size) + head


def pack(header: Header, body: bytes | memoryview = b"") -> bytes:
    """One frame as bytes. A large body is better sent behind `begin`, without a copy of it."""
    return begin(header, len(body)) + body


class Unpacker:
    """Cuts a stream into frames: feed bytes, iterate over (header, body). Longer headers than `most` are an error.

    `header`: how one is read; it raises FrameError.
    """

    def __init__(self, most: int = HEADER_MAX, header: Callable[[memoryview], Header] | None = None) -> None:
        self._most = most
        self._header = header or _header
        self._buffer = bytearray()
        self._wanted = HEAD.size
        """Bytes before which nothing is complete."""

    def feed(self, data: bytes) -> list[tuple[Header, bytes]]:
        """Frames that are complete with `data`. Raises FrameError; the stream can't be used after it."""
        buffer = self._buffer
        buffer += data
        if len(buffer) < self._wanted:
            return []
        with memoryview(buffer) as view:
            frames, end = self._cut(view)
        if end:
            del buffer[:end]
        return frames

    def _cut(self, buffer: memoryview) -> tuple[list[tuple[Header, bytes]], int]:
        """Frames that are complete, and where the last of them ends. Each body is copied once."""
        frames = []
        start, self._wanted = 0, HEAD.size
        while len(buffer) - start >= HEAD.size:
            header_len, body_len = HEAD.unpack_from(buffer, start)
            if header_len > self._most or body_len > BODY_MAX:
                raise FrameError(f"a frame of {header_len} + {body_len} bytes is too long")
            body_start = start + HEAD.size + header_len
            end = body_start + body_len
            if len(buffer) < end:
                self._wanted = end - start
                break
            frames.append((self._header(buffer[start + HEAD.size : body_start]), bytes(buffer[body_start:end])))
            start = end
        return frames, start


def _header(data: memoryview) -> Header:
    try:
        text = str(data, "utf-8")
        header, end = _decode(text)
        if "\\ud" in text or "\\uD" in text:  # halves of characters: JSON can name them, and nothing that a result is written to can
            _encode_plain(header).encode()
    except (ValueError, RecursionError) as error:  # a program may have written it, as deep as it likes
        raise FrameError(f"a header is not JSON: {error}") from None
    if not isinstance(header, dict) or end != len(text):
        raise FrameError("a header is not one object")
    return header
