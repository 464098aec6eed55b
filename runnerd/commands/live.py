"""Shows a job on the terminal: its output as it comes, byte for byte; at its end what is still missing, and how it ended."""

import os
import signal
from typing import Literal

import anyio.to_thread

from ..job import Event, Output, Result, Started

TIMEOUT, FAILED = 124, 125
"""Exit codes of a timeout, and of a failure of runnerd itself."""

Stream = tuple[Literal["compile", "run"], Literal["stdout", "stderr"]]

_NOT_RUN = ("rejected", "expired", "dead")


class Closed(Exception):
    """Nobody reads our output any more."""


class Live:
    """The output of one job. What was written is always the beginning of the whole, whatever was lost on the way.

    Not so with `missed`, for a job that is looked at in its middle: this line stands for what is missing, and more is shown behind it.
    """

    def __init__(self, missed: str = "") -> None:
        self._missed = missed
        self._begin(1)

    def _begin(self, start: int) -> None:
        self._start = start
        self._written: dict[Stream, int] = {}
        self._seq: dict[Stream, int] = {}
        self._gap: set[Stream] = set()

    async def show(self, event: Event) -> None:
        """Write what an event brings. Raises Closed."""
        match event:
            case Started(start=start) if start > self._start:
                self._begin(start)
                await _write(2, b"runnerd: its sandbox was lost; the program is started again\n")
            case Output():
                await self._output(event)
            case Result():
                await self._rest(event)

    async def _output(self, event: Output) -> None:
        stream = (event.stage, event.stream)
        if event.seq not in (1, self._seq.get(stream, 0) + 1):
            if self._missed and not self._gap:
                await _write(2, f"runnerd: {self._missed}\n".encode())
            self._gap.add(stream)
        self._seq[stream] = event.seq
        if self._missed or stream not in self._gap:
            await self._put(stream, event.content)

    async def _rest(self, result: Result) -> None:
        """Write what did not come while the job ran."""
        for stream, content in _contents(result).items():
            if not (self._missed and stream in self._gap):
                await self._put(stream, content[self._written.get(stream, 0) :])

    async def _put(self, stream: Stream, content: bytes) -> None:
        # a compiler's words are no output of the program
        await _write(1 if stream == ("run", "stdout") else 2, content)
        self._written[stream] = self._written.get(stream, 0) + len(content)


def exit_code(result: Result) -> int:
    """The program's exit code, 128 and the signal that ended it, or one of our own."""
    if result.status in _NOT_RUN:
        return FAILED
    if result.status == "timeout":
        return TIMEOUT
    if result.status == "cancelled":
        return 128 + signal.SIGINT
    if result.status == "oom":
        return 128 + signal.SIGKILL
    code, number = result.exit_code, result.signal
    if result.stage == "compile" and result.compile is not None and code is None and number is None:
        code, number = result.compile.exit_code, result.compile.signal
    if number is not None:
        return 128 + number
    return code or (0 if result.status == "ok" else 1)


def verdict(result: Result) -> list[str]:
    """Lines that say how the job ended, where its output and exit code don't."""
    lines = []
    if result.status not in ("ok", "failed"):
        limit = f" ({result.limit})" if result.limit else ""
        lines.append(f"{result.status}{limit}: {result.reason}" if result.reason else f"{result.status}{limit}")
    elif result.signal is not None:
        lines.append(f"killed by signal {result.signal} ({_signal_name(result.signal)})")
    elif result.reason:
        lines.append(result.reason)
    cut = (("stdout", result.stdout_truncated), ("stderr", result.stderr_truncated))
    lines += [f"{stream} was cut off at its limit" for stream, truncated in cut if truncated]
    lines += [f"{_shown(skipped.name)}: not returned: {skipped.reason}" for skipped in result.skipped]
    return lines


def unsaved(result: Result) -> str:
    """A line about files that nobody asked to save, empty where there are none."""
    if not result.files:
        return ""
    names = ", ".join(_shown(file.name) for file in result.files[:10])
    more = ", …" if len(result.files) > 10 else ""
    return f"not saved: {names}{more}: --out DIR saves the files that the program left"


def _contents(result: Result) -> dict[Stream, bytes]:
    contents: dict[Stream, bytes] = {}
    if result.compile is not None:
        contents["compile", "stdout"] = _bytes(result.compile.stdout, result.compile.stdout_bytes)
        contents["compile", "stderr"] = _bytes(result.compile.stderr, result.compile.stderr_bytes)
    contents["run", "stdout"] = _bytes(result.stdout, result.stdout_bytes)
    contents["run", "stderr"] = _bytes(result.stderr, result.stderr_bytes)
    return contents


def _bytes(text: str, data: bytes | None) -> bytes:
    return data if data is not None else text.encode()


def _shown(name: str) -> str:
    """A name of the program's choice, without what a terminal would obey."""
    return name if name.isprintable() else ascii(name)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


async def _write(handle: int, content: bytes) -> None:
    """Write all of it. A reader may be slow, so it is done in a thread. Raises Closed."""
    if not content:
        return
    try:
        await anyio.to_thread.run_sync(_write_all, handle, content, abandon_on_cancel=True)
    except BrokenPipeError:
        raise Closed from None


def _write_all(handle: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(handle, left) :]
