"""The agent's ends of one child: its control socket, and the pipes that it writes its output to."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from typing import Protocol

from .frames import FrameError, Header, Unpacker
from .loop import Channel, Loop

PIPE_READ = 1 << 16
SAID = 16
"""Frames that a child may send: none has more to say before its program ends, and one that goes on would keep the agent from others."""
SAID_BYTES = 1 << 18
"""Bytes of a child's header: a hundred names of variables and of classes are the most that is in one."""


class EndsListener(Protocol):
    """The slot, as the ends of a child see it."""

    def said(self, ends: Ends, header: Header, body: bytes) -> None:
        """A frame of the child."""

    def wrote(self, ends: Ends, stream: str, data: bytes) -> None:
        """Output."""

    def hung_up(self, ends: Ends) -> None:
        """The child has closed its control socket: mostly, it has ended."""

    def has_room(self, ends: Ends) -> None:
        """The child takes more."""


class Ends:
    """Ours, of a child that is still to be forked: it gets `theirs`."""

    def __init__(self, loop: Loop, listener: EndsListener) -> None:
        ours, self._theirs = socket.socketpair()
        out_read, self._out = os.pipe()
        err_read, self._err = os.pipe()
        self._loop = loop
        self._listener = listener
        self._unpacker = Unpacker(SAID_BYTES)
        self._paused = False
        self._channel: Channel | None = Channel(loop, ours, self._data, self._hung_up, lambda: listener.has_room(self))
        self._pipes = {"stdout": out_read, "stderr": err_read}
        for stream, fd in self._pipes.items():
            os.set_blocking(fd, False)
            loop.watch(fd, self._watcher(stream))

    @property
    def theirs(self) -> list[int]:
        """Descriptors of the child: standard output, standard error, control socket."""
        return [self._out, self._err, self._theirs.fileno()]

    def close_theirs(self) -> None:
        """The child has them."""
        self._theirs.close()
        os.close(self._out)
        os.close(self._err)

    @property
    def full(self) -> bool:
        """Whether the child has more to read than is good."""
        return self._channel is not None and self._channel.full

    @property
    def open(self) -> bool:
        """Whether the child can still be talked to."""
        return self._channel is not None

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Give the child something to read, and descriptors with it."""
        if self._channel is None:
            return
        if fds:
            self._channel.send_fds(data, fds)
        else:
            self._channel.write(data)

    def pause(self, paused: bool) -> None:
        """Stop or resume reading what the child writes, and says: it blocks when its pipes are full."""
        if paused == self._paused:
            return
        self._paused = paused
        if self._channel is not None:
            self._channel.pause(paused)
        for fd in self._pipes.values():
            self._loop.modify(fd, 0 if paused else 1)

    def hear_out(self) -> None:
        """Hear all that the child had said, which has ended."""
        if self._channel is not None:
            self._channel.drain()

    def deafen(self) -> None:
        """Listen no more to the child: its process tells how it ends, and what it writes is read."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def drain(self) -> None:
        """Read what is in the pipes now."""
        for stream in list(self._pipes):
            while self._read(stream):
                pass

    def catch_up(self) -> None:
        """Read what a program that still runs has written so far: a pipe holds no more than one read takes."""
        if not self._paused:
            for stream in list(self._pipes):
                self._read(stream)

    def close(self) -> None:
        """Close all of them."""
        self.deafen()
        for stream in list(self._pipes):
            self._close_pipe(stream)

    def _data(self, data: bytes) -> None:
        try:
            frames = self._unpacker.feed(data)
        except FrameError:
            self.deafen()
            return
        for header, body in frames:
            self._listener.said(self, header, body)

    def _hung_up(self) -> None:
        self._channel = None
        self._listener.hung_up(self)

    def _watcher(self, stream: str) -> Callable[[int], None]:
        def readable(_: int) -> None:
            self._read(stream)

        return readable

    def _read(self, stream: str) -> bool:
        """Read one of the pipes once; returns whether there may be more."""
        fd = self._pipes.get(stream, -1)
        if fd < 0:
            return False
        try:
            data = os.read(fd, PIPE_READ)
        except BlockingIOError:
            return False
        if not data:
            self._close_pipe(stream)
            return False
        self._listener.wrote(self, stream, data)
        return len(data) == PIPE_READ

    def _close_pipe(self, stream: str) -> None:
        fd = self._pipes.pop(stream)
        self._loop.unwatch(fd)
        os.close(fd)
