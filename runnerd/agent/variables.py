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

_write_fd = os.write
OUTPUTS = (1, 2)
SMALL = 4096
"""Bytes that are better copied than sent alone."""


def bring(data: bytes, namespace: dict[str, Any], control: socket.socket, changed: int) -> Header:
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
        size = sum(len(piece) for piece in taken.pieces)
        _send(control, pack({"type": "taken", "size": size, "skipped": taken.skipped}))
        for piece in _gathered(taken.pieces):
            _send_state(control, memoryview(piece))
    except snapshot.TooLarge:
        _send(control, pack({"type": "taken", "problem": "size"}))
    except BaseException:  # noqa: BLE001 - the program's objects, in a process that the program may have changed
        _send(control, pack({"type": "taken", "problem": "failed"}))


def _gathered(pieces: list[bytes]) -> Iterator[bytes]:
    """The same bytes, small pieces next to each other as one."""
    small: list[bytes] = []
    for piece in pieces:
        if len(piece) < SMALL:
            small.append(piece)
            continue
        if small:
            yield b"".join(small)
            small = []
        yield piece
    if small:
        yield b"".join(small)


def _send_state(fd: int, piece: memoryview) -> None:
    """Send frames with the bytes of `piece`, without another copy of them: each is memory that a fresh process has to get first."""
    head = b'{"type":"state"}'
    for start in range(0, len(piece), CHUNK):
        body = piece[start : start + CHUNK]
        _send(fd, HEAD.pack(len(head), len(body)) + head)
        _send(fd, body)


def _send(fd: int, data: bytes | memoryview) -> None:
    while data:
        data = data[_write_fd(fd, data) :]
