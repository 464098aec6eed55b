"""A warm program's variables, from its own side: bringing those of an earlier one, and giving up its own.

Both run code of whoever made the objects, as the job that they belong to; the agent ends what takes too long.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from typing import Any

from . import snapshot
from .frames import CHUNK, HEAD, Header, pack

_writev_fd = os.writev
OUTPUTS = (1, 2)
AT_ONCE = 1000
"""Pieces that are sent by one call: the kernel takes 1024."""


class _Brought:
    """The snapshot that was loaded here, where it need not be sent back unchanged."""

    def __init__(self) -> None:
        self.snapshot: bytes | bytearray = b""

    def remember(self, snapshot: bytes | bytearray) -> None:
        self.snapshot = snapshot

    def stays(self, taken: snapshot.Taken) -> bool:
        """Whether a snapshot is the same; asked once, since the next one is another's."""
        view, self.snapshot = memoryview(self.snapshot), b""
        for piece in taken.pieces:
            if view[: len(piece)] != piece:
                return False
            view = view[len(piece) :]
        return not view and bool(taken.pieces)


brought = _Brought()


def bring(data: bytes | bytearray, namespace: dict[str, Any], control: socket.socket, changed: int) -> Header:
    """Load a snapshot into the namespace, after saying so; returns what there is to say of it."""
    control.sendall(pack({"type": "loading", "changed": changed}))
    with _silence():
        try:
            return {"skipped": snapshot.load(data, namespace)}
        except snapshot.Unloadable as problem:
            return {"problem": str(problem)}


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """What loading writes is no output of the program: modules greet, and objects do what they like."""
    null = os.open("/dev/null", os.O_WRONLY)
    kept = [os.dup(fd) for fd in OUTPUTS]
    try:
        for fd in OUTPUTS:
            os.dup2(null, fd)
        yield
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        for fd, original in zip(OUTPUTS, kept):  # noqa: B905 - `strict` came with Python 3.10
            os.dup2(original, fd)
        for fd in (null, *kept):
            os.close(fd)


def give(namespace: dict[str, Any] | None, most: int, control: int) -> None:
    """Take a snapshot of the namespace and send it, or say why there is none.

    None says that this process is not the program's but a fork of it, which came to the end first.
    """
    try:
        if namespace is None or not snapshot.available():
            _send(control, pack({"type": "taken", "problem": "failed" if namespace is None else "missing"}))
            return
        taken = snapshot.take(namespace, most)
        if brought.stays(taken):
            _send(control, pack({"type": "taken", "same": True, "skipped": taken.skipped}))
            return
        size = sum(len(piece) for piece in taken.pieces)
        _send(control, pack({"type": "taken", "size": size, "skipped": taken.skipped}))
        _send_state(control, taken.pieces)
    except snapshot.TooLarge:
        _send(control, pack({"type": "taken", "problem": "size"}))
    except BaseException:  # noqa: BLE001 - the program's objects, in a process that the program may have changed
        _send(control, pack({"type": "taken", "problem": "failed"}))


def _send_state(fd: int, pieces: list[bytes]) -> None:
    """Send the pieces in frames, without another copy of them: each is memory that a fresh process has to get first."""
    head = b'{"type":"state"}'
    for size, parts in _framed(pieces):
        _send_all(fd, [HEAD.pack(len(head), size) + head, *parts])


def _framed(pieces: list[bytes]) -> Iterator[tuple[int, list[memoryview]]]:
    """The bodies of frames, as parts of pieces, each with its size."""
    parts: list[memoryview] = []
    size = 0
    for piece in pieces:
        left = memoryview(piece)
        while left:
            part, left = left[: CHUNK - size], left[CHUNK - size :]
            parts.append(part)
            size += len(part)
            if size == CHUNK:
                yield size, parts
                parts, size = [], 0
    if parts:
        yield size, parts


def _send(fd: int, data: bytes) -> None:
    _send_all(fd, [data])


def _send_all(fd: int, parts: list[Any]) -> None:
    while parts:
        written = _writev_fd(fd, parts[:AT_ONCE])
        while parts and written >= len(parts[0]):
            written -= len(parts.pop(0))
        if written:
            parts[0] = memoryview(parts[0])[written:]
