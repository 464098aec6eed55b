"""A small epoll loop: descriptors, timers, and buffered writing with a bound."""

from __future__ import annotations

import heapq
import os
import select
import socket
import time
from collections.abc import Callable, Sequence

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
HIGH_WATER = 1 << 20
"""Bytes waiting to be written above which whoever produces them has to pause."""

AT_ONCE = 1000
"""Pieces that are written by one call: the kernel takes 1024."""
HOLD = 1 << 16
"""Bytes that may be held back for the next write."""


class Timer:
    """A call at some time; cancel it by setting `callback` to None."""

    __slots__ = ("at", "callback")

    def __init__(self, at: float, callback: Callable[[], None]) -> None:
        self.at = at
        self.callback: Callable[[], None] | None = callback

    def __lt__(self, other: Timer) -> bool:
        return self.at < other.at

    def cancel(self) -> None:
        """Do not call. Does nothing where it was called already."""
        self.callback = None


class Loop:
    """Waits for descriptors and timers, and calls what was registered for them."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._fresh: set[int] = set()
        """Descriptors watched since the loop last waited: an event of this round that names one was its predecessor's."""
        self._timers: list[Timer] = []
        self._unflushed: list[Outbox] = []
        self.stopping = False

    def watch(self, fd: int, callback: Callable[[int], None], events: int = READ) -> None:
        """Call back with the events that came. A descriptor must be unwatched before it is closed."""
        self._epoll.register(fd, events)
        self._callbacks[fd] = callback
        self._fresh.add(fd)

    def modify(self, fd: int, events: int) -> None:
        """Wait for other events; none means only for a hang-up."""
        if fd in self._callbacks:
            self._epoll.modify(fd, events)

    def unwatch(self, fd: int) -> None:
        """Forget a descriptor; nothing happens where it is not watched."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_after(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call back once, on the monotonic clock."""
        timer = Timer(time.monotonic() + seconds, callback)
        heapq.heappush(self._timers, timer)
        return timer

    def flush_soon(self, outbox: Outbox) -> None:
        """Write out before the loop waits again."""
        self._unflushed.append(outbox)

    def run(self) -> None:
        """Loop until `stopping`."""
        callbacks = self._callbacks
        while not self.stopping:
            self._fresh.clear()
            for fd, events in self._epoll.poll(self._timeout()):
                callback = callbacks.get(fd)  # None: unwatched by an earlier event of this round
                if callback is not None and fd not in self._fresh:
                    callback(events)
            self._fire()
            while self._unflushed:
                unflushed, self._unflushed = self._unflushed, []
                for outbox in unflushed:
                    outbox.flush()

    def _timeout(self) -> float | None:
        while self._timers and self._timers[0].callback is None:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0].at - time.monotonic()) if self._timers else None

    def _fire(self) -> None:
        if not self._timers:
            return
        now = time.monotonic()
        while self._timers and self._timers[0].at <= now:
            callback = heapq.heappop(self._timers).callback
            if callback is not None:
                callback()


class Outbox:
    """Buffered writing to a socket or pipe that the loop may not block on. What can't be written any more is dropped."""

    def __init__(self, loop: Loop, fd: int, on_room: Callable[[], None] | None = None) -> None:
        self._loop = loop
        self._fd = fd
        self._on_room = on_room
        self._chunks: list[bytes | memoryview] = []
        self._blocked = False
        self._queued = False
        self._close_when_empty = False
        self.pending = 0
        self.closed = False

    @property
    def full(self) -> bool:
        """Whether its producer should pause until `on_room` is called."""
        return self.pending > HIGH_WATER

    def write(self, data: bytes, hold: bool = False) -> None:
        """Write soon: before the loop waits again, or when the reader has room. `hold` leaves a little to the next write."""
        if self.closed or not data:
            return
        self._chunks.append(data)
        self.pending += len(data)
        if not self._queued and not self._blocked and not (hold and self.pending < HOLD):
            self._queued = True
            self._loop.flush_soon(self)

    def flush(self) -> None:
        """Write what the kernel takes now."""
        self._queued = False
        if self.closed:
            return
        was_full = self.full
        try:
            while self._chunks:
                written = os.writev(self._fd, self._chunks[:AT_ONCE])
                self.pending -= written
                self._chunks = _behind(self._chunks, written)
            if self._close_when_empty:
                self.close()
        except BlockingIOError:
            self._block()
        except OSError:  # the reader is gone; whoever owns the descriptor learns it by reading
            self._chunks, self.pending = [], 0
            if self._close_when_empty:
                self.close()
        if was_full and not self.full and self._on_room is not None:
            self._on_room()

    def _block(self) -> None:
        if not self._blocked:
            self._blocked = True
            self._want_write(True)

    def writable(self) -> None:
        """To be called when the loop says that the descriptor takes more."""
        if self._blocked:
            self._blocked = False
            self._want_write(False)
            self.flush()

    def _want_write(self, wanted: bool) -> None:
        """Overridden where the descriptor is watched for reading too."""
        if wanted:
            self._loop.watch(self._fd, lambda _: self.writable(), WRITE)
        else:
            self._loop.unwatch(self._fd)

    def close_when_empty(self) -> None:
        """Close the descriptor after the last byte."""
        self._close_when_empty = True
        if not self._blocked:
            self.flush()

    def close(self) -> None:
        """Close the descriptor now, dropping what waits."""
        if not self.closed:
            self.closed = True
            self._chunks, self.pending = [], 0
            self._loop.unwatch(self._fd)
            self._release()

    def _release(self) -> None:
        os.close(self._fd)


def _behind(chunks: list[bytes | memoryview], written: int) -> list[bytes | memoryview]:
    """What is left of chunks when so much was written. Nothing is copied."""
    for number, chunk in enumerate(chunks):
        if written < len(chunk):
            return [memoryview(chunk)[written:], *chunks[number + 1 :]] if written else chunks[number:]
        written -= len(chunk)
    return []


class Channel(Outbox):
    """A stream socket that is read and written: reading can be paused, and a hang-up is told once."""

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        on_data: Callable[[bytes], None],
        on_close: Callable[[], None],
        on_room: Callable[[], None] | None = None,
        most_fds: int = 0,
    ) -> None:
        sock.setblocking(False)
        super().__init__(loop, sock.fileno(), on_room)
        self.fds: list[int] = []
        """Descriptors that came, at most `most_fds` at once, and were not taken from here."""
        self._most_fds = most_fds
        self._sock = sock
        self._on_data = on_data
        self._on_close = on_close
        self._paused = False
        self._writing = False
        loop.watch(self._fd, self._event)

    def pause(self, paused: bool) -> None:
        """Stop or resume reading."""
        if paused != self._paused and not self.closed:
            self._paused = paused
            self._update()

    def send_fds(self, data: bytes, fds: Sequence[int]) -> None:
        """Send data with descriptors at once, in front of nothing: only while nothing waits."""
        try:
            sent = socket.send_fds(self._sock, [data], fds)
        except OSError:
            return
        self.write(data[sent:])

    def _event(self, events: int) -> None:
        if events & WRITE:
            self.writable()
        if events & ~WRITE and not self.closed:
            self._read()

    def drain(self) -> None:
        """Read all that is there, also while paused: of a peer that is gone, to its end."""
        while not self.closed and self._read():
            pass

    def _read(self) -> bool:
        """Read once; returns whether there may be more."""
        try:
            data = self._received()
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if data:
            self._on_data(data)
        else:
            self.close()
            self._on_close()
        return bool(data)

    def _received(self) -> bytes:
        if not self._most_fds:
            return self._sock.recv(1 << 16)
        data, fds, _, _ = socket.recv_fds(self._sock, 1 << 16, self._most_fds, socket.MSG_CMSG_CLOEXEC)
        self.fds += fds
        return data

    def _release(self) -> None:
        while self.fds:
            os.close(self.fds.pop())
        self._sock.close()

    def _want_write(self, wanted: bool) -> None:
        self._writing = wanted
        self._update()

    def _update(self) -> None:
        self._loop.modify(self._fd, (0 if self._paused else READ) | (WRITE if self._writing else 0))
