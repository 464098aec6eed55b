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
from .frames import CHUNK, Header, pack

_write_fd = os.write
OUTPUTS = (1, 2)


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
        for piece in _joined(taken.pieces):
            _send(control, pack({"type": "state"}, piece))
    except snapshot.TooLarge:
        _send(control, pack({"type": "taken", "problem": "size"}))
    except BaseException:  # noqa: BLE001 - the program's objects, in a process that the program may have changed
        _send(control, pack({"type": "taken", "problem": "failed"}))


def _joined(pieces: list[bytes]) -> list[bytes]:
    """The same bytes in bodies of a frame's size."""
    whole = b"".join(pieces)
    return [whole[start : start + CHUNK] for start in range(0, len(whole), CHUNK)]


def _send(fd: int, data: bytes) -> None:
    while data:
        data = data[_write_fd(fd, data) :]
