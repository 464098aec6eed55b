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
from .frames import Header, pack
from .slate import Slate

_write_fd = os.write
OUTPUTS = (1, 2)


class _Brought:
    """The snapshot that was loaded here, where it need not be sent back unchanged."""

    def __init__(self) -> None:
        self.snapshot = b""

    def remember(self, snapshot: bytes) -> None:
        self.snapshot = snapshot

    def stays(self, taken: snapshot.Taken) -> bool:
        """Whether a snapshot is the same; asked once, since the next one is another's."""
        snapshot, self.snapshot = self.snapshot, b""
        at = 0
        for piece in taken.pieces:
            if not snapshot.startswith(piece, at):
                return False
            at += len(piece)
        return 0 < at == len(snapshot)


brought = _Brought()


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


def give(namespace: dict[str, Any] | None, most: int, control: int, slate: Slate) -> None:
    """Take a snapshot of the namespace and hand it over, or say why there is none.

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
        slate.fill(taken.pieces)
        _send(control, pack({"type": "taken", "size": sum(len(piece) for piece in taken.pieces), "skipped": taken.skipped}))
    except snapshot.TooLarge:
        _send(control, pack({"type": "taken", "problem": "size"}))
    except BaseException:  # noqa: BLE001 - the program's objects, in a process that the program may have changed
        _send(control, pack({"type": "taken", "problem": "failed"}))


def _send(fd: int, data: bytes) -> None:
    while data:
        data = data[_write_fd(fd, data) :]
