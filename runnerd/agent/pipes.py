"""What a program reads and writes besides its output: standard input, calls of tools, and the answers to them.

A call is a line, and so is an answer. What a program writes is passed on unread, in pieces, and so held nowhere; whoever
gets a line answers it once, whatever it is. Lines are counted, and cut off where they are too long. While as many are
unanswered as may be, or the program does not read its answers, no more is read of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Protocol

from .clock import Clock
from .frames import Header
from .loop import Loop, Outbox, Timer

STDIN, CALLS, ANSWERS = 0, 8, 9
"""Their descriptors in the program: any shell can name those of one digit, and nothing else that is open is in their way."""
PIPE_READ = 1 << 16


class PipeListener(Protocol):
    """The lease, as these pipes see it."""

    def emit(self, header: Header, body: bytes = b"") -> None:
        """Send a frame to the executor."""

    def child_room(self) -> None:
        """There is room for more input."""


class Pipes:
    """The agent's ends of the pipes of one job, and the program's own until it has them."""

    def __init__(self, loop: Loop, request: Header, listener: PipeListener) -> None:
        self._loop = loop
        self.stdin: Outbox | None = None
        self.calls: Calls | None = None
        self.theirs: dict[int, int] = {}
        """The program's ends: our descriptors, each under the number that it is to have there."""
        if request.get("stdin"):
            self.theirs[STDIN], write = os.pipe()
            os.set_blocking(write, False)
            self.stdin = Outbox(loop, write, listener.child_room)
        if request.get("tools"):
            calls, self.theirs[CALLS] = os.pipe()
            self.theirs[ANSWERS], answers = os.pipe()
            for fd in self.theirs.values():
                os.fchmod(fd, 0o666)  # so that it can be opened as /dev/fd/8, by whoever has it
            self.calls = Calls(loop, request["tools"], calls, answers, listener.emit)

    @property
    def full(self) -> bool:
        """Whether more input has to wait."""
        return self.stdin is not None and self.stdin.full

    def take(self, header: Header, body: bytes) -> None:
        """A frame of the executor's for the program."""
        if header["type"] == "answer" and self.calls is not None:
            self.calls.answer(body, more=header.get("more", False))
        elif header["type"] == "stdin" and self.stdin is not None:
            if body:
                self.stdin.write(body)
            else:
                self.stdin.close_when_empty()

    def clock(self, wall_s: float, over: Callable[[], None], ahead: Callable[[], None]) -> Timer | Clock:
        """The time of the program, which begins: `over` is called at its end. `ahead` is called before each call of a tool."""
        if self.calls is None:
            return self._loop.call_after(wall_s, over)
        clock = Clock(self._loop, wall_s, self.calls.wait_s, over)
        self.calls.on_wait, self.calls.ahead = clock.waits, ahead
        return clock

    def drop_theirs(self) -> None:
        """The program has them."""
        for fd in self.theirs.values():
            os.close(fd)
        self.theirs = {}

    def close(self) -> None:
        """Close everything."""
        self.drop_theirs()
        if self.stdin is not None:
            self.stdin.close()
        if self.calls is not None:
            self.calls.close()


class Calls:
    """The lines of one program, and the answers to them."""

    def __init__(self, loop: Loop, most: Header, calls: int, answers: int, emit: Callable[..., None]) -> None:
        self.wait_s: float = most["wait_s"]
        """How long the program may wait for answers in all, before it counts as its wall time."""
        self.on_wait: Callable[[bool], None] = lambda _: None
        """Called when the program begins to wait for an answer, and when it waits for none any more."""
        self.ahead: Callable[[], None] = lambda: None
        """Called ahead of a line: what was written before it comes first."""
        self._loop = loop
        self._most: int = most["calls"]
        self._most_open: int = most["open"]
        self._most_bytes: int = most["bytes"]
        self._emit = emit
        self._fd = calls
        self._rest = b""
        """What was read and not passed on yet."""
        self._lines = 0
        self._open = 0
        self._length = -1
        """Bytes of the line that was begun; -1 where none was."""
        self._cut = False
        """Whether that line was too long: the rest of it is dropped."""
        self._reading = False
        self._over = False
        """Whether the program has called as often as it may."""
        for fd in (calls, answers):
            os.set_blocking(fd, False)
        self._answers = Outbox(loop, answers, self._pass_on)
        self._read_on(True)

    def answer(self, line: bytes, *, more: bool) -> None:
        """Pass an answer on, or a piece of one."""
        self._answers.write(line)
        if more or not self._open:
            return
        self._open -= 1
        if not self._open:
            self.on_wait(False)
            self._end_answers()
        self._pass_on()

    def close(self) -> None:
        """Hear no more, and say no more."""
        self._close_calls()
        self._answers.close()

    def _readable(self) -> None:
        try:
            self._rest = os.read(self._fd, PIPE_READ)
        except BlockingIOError:
            return
        if self._rest:
            self._pass_on()
        else:  # nobody is left who could call
            self._close_calls()

    def _pass_on(self) -> None:
        """Pass on what was read, as far as answers to it may be waited for; then read on."""
        rest, start = self._rest, 0
        while start < len(rest):
            if self._length < 0 and not self._begin():
                break
            end = rest.find(b"\n", start)
            piece = rest[start:] if end < 0 else rest[start:end]
            start = len(rest) if end < 0 else end + 1
            self._piece(piece, ends=end >= 0)
        self._rest = rest[start:] if self._fd >= 0 else b""
        self._read_on(not self._rest)

    def _begin(self) -> bool:
        """Begin a line, where it may be."""
        if self._open >= self._most_open or self._answers.full or self._fd < 0:
            return False
        if self._lines >= self._most:
            self._over = True
            self._close_calls()
            self._end_answers()
            return False
        self._lines += 1
        self._length, self._cut = 0, False
        self.ahead()
        return True

    def _piece(self, piece: bytes, *, ends: bool) -> None:
        self._length += len(piece)
        if self._length > self._most_bytes and not self._cut:
            self._cut = True
            self._pass({"type": "call", "cut": True}, b"")
        elif not self._cut:
            self._pass({"type": "call"} if ends else {"type": "call", "more": True}, piece)
        if ends:
            self._length = -1

    def _pass(self, header: Header, piece: bytes) -> None:
        self._emit(header, piece)
        if not header.get("more"):
            self._open += 1
            if self._open == 1:
                self.on_wait(True)

    def _read_on(self, reading: bool) -> None:
        if reading == self._reading or self._fd < 0:
            return
        self._reading = reading
        if reading:
            self._loop.watch(self._fd, lambda _: self._readable())
        else:  # and not only without READ: a pipe that all its writers have left would call us all the time
            self._loop.unwatch(self._fd)

    def _end_answers(self) -> None:
        """Say that no more is answered, once all that was called is."""
        if not self._over or self._open:
            return
        reason = f"a job may call tools {self._most} times (tools.calls)"
        self._answers.write(json.dumps({"id": None, "error": reason}).encode() + b"\n")
        self._answers.close_when_empty()

    def _close_calls(self) -> None:
        if self._fd >= 0:
            self._loop.unwatch(self._fd)
            os.close(self._fd)
            self._fd = -1
