"""One job on its way through a slot: its stages, its deadline, what it may write, and the files it leaves."""

from __future__ import annotations

import os
import time
from typing import Any, Protocol

from .frames import CHUNK, Header, pack
from .loop import Loop, Outbox, Timer
from .options import Options
from .slot import Slot

FLOOD = 64
"""A program that writes so many times more than is kept is ended."""
ENTRIES = 100_000
SKIPPED = 100


class RunListener(Protocol):
    """The lease, as its run sees it."""

    def emit(self, header: Header, body: bytes = b"") -> None:
        """Send a frame to the executor."""

    def over(self) -> None:
        """There is no more to send. Called once."""

    def child_room(self) -> None:
        """The child takes more files or input."""


class Run:
    """A job in its slot."""

    def __init__(self, loop: Loop, options: Options, slot: Slot, request: Header, listener: RunListener, asked: float) -> None:
        self._loop = loop
        self._options = options
        self._slot = slot
        self._request = request
        self._listener = listener
        self._asked = asked
        self._emit = listener.emit
        self._stages: list[Header] = list(request["stages"])
        self._stage: Header = {}
        self._inputs: dict[str, int] = {}
        self._files_left: int = request["files"]
        self._file_open = ""
        self._deadline: Timer | None = None
        self._started = 0.0
        self._written = {"stdout": 0, "stderr": 0}
        self._cause = ""
        self._detail = ""
        self._succeeded = False
        self._code: int | None = None
        self._stage_over = False
        self._collecting = False
        self._over = False
        self.stream: bool = request.get("stream", False)
        """Whether output is wanted as it is written."""
        self.stdin: Outbox | None = None
        self._stdin_read = -1

    def start(self) -> None:
        """Set the limits and give the waiting child its request; the files follow through `file`."""
        limits = self._request["limits"]
        try:
            self._slot.limit(limits["memory_bytes"], limits["processes"], limits["cpu_cores"])
        except OSError:  # less than the standby child has in use
            self._refuse_memory()
            return
        if self._request.get("stdin"):
            self._stdin_read, write = os.pipe()
            os.set_blocking(write, False)
            self.stdin = Outbox(self._loop, write, self._listener.child_room)
        self._next_stage()

    def _refuse_memory(self) -> None:
        self._stage, self._cause = self._stages[-1], "memory"
        self._end_stage(None, None, 0, 0)
        self._finish()
        self._slot.kill()

    def file(self, header: Header, body: bytes) -> None:
        """Pass a file of the job on to its child."""
        name = header["name"]
        self._inputs[name] = self._inputs.get(name, 0) + len(body)
        if not header.get("more"):
            self._files_left -= 1
        self._slot.send(pack({"name": name, "more": True} if header.get("more") else {"name": name}, body))

    def end(self, cause: str) -> None:
        """End the stage that runs, because of `timeout` or `output`."""
        if not self._cause and not self._stage_over:
            self._cause = cause
            self._kill()

    def abandon(self) -> None:
        """Nobody waits for the job any more: end it and let the slot renew itself."""
        if not self._over:
            self._finish(lost=True)
            self._slot.user = None
            self._slot.kill()

    # What the slot tells

    def child_ready(self) -> None:
        """The child of the next stage, or the one that collects, waits for its request."""
        if self._collecting:
            self._collect()
        else:
            self._next_stage()

    def child_said(self, header: Header, body: bytes) -> None:
        """A frame of the child."""
        kind = header.get("type")
        if self._collecting:
            self._collected(kind, header, body)
        elif self._stage_over or self._code is not None:
            pass
        elif kind == "done" and self._stage.get("python") and isinstance(header.get("code"), int):
            self._done(header["code"] & 0xFF, header.get("dirty"))
        elif kind == "failed":
            # A warm program could say so too: all it gets by that is a result that says so, in our words.
            warm = self._stage.get("python")
            self._cause = "workspace" if header.get("limit") == "workspace_bytes" else "input" if warm else "start"
            self._detail = "" if warm else str(header.get("reason", ""))[:500]

    def _done(self, code: int, dirty: object) -> None:
        """A warm program says that it has ended; believed of its own code and files only, and killed for it."""
        self._code = code
        if not self._slot.kill_alone():
            self._kill()
            return
        self._end_stage(code, None, 0, 0)
        if dirty is False and len(self._inputs) == 1:
            self._finish()

    def output(self, stream: str, data: bytes) -> None:
        """Pass output on, as much as is kept of it; a flood ends the job."""
        if self._stage_over or self._collecting:
            return
        before = self._written[stream]
        self._written[stream] = before + len(data)
        most = self._stage["output_bytes"]
        if before < most:
            self._emit({"type": "output", "stream": stream, "stage": self._stage["name"]}, data[: most - before])
        if before + len(data) > most * FLOOD:
            self.end("output")

    def killed(self, cpu_ns: int, memory: int, only_file: str) -> None:
        """A warm program is over as soon as nothing of it runs: no need to wait until its memory is torn down."""
        if self._code is None or self._stage_over:
            return
        self._end_stage(self._code, None, cpu_ns, memory)
        if self._nothing_but(only_file):
            self._finish()

    def child_ended(self, status: int, cpu_ns: int, memory: int, only_file: str) -> None:
        """The stage is over, if it was not already; go on with the next, with its files, or not at all."""
        if self._collecting:
            self._emit_collect_failure()
            self._finish()
            return
        if not self._stage_over:
            code = os.waitstatus_to_exitcode(status)
            self._end_stage(code if code >= 0 else None, -code if code < 0 else None, cpu_ns, memory)
        if self._stages and self._succeeded:
            self._slot.fork(renew=False)
        elif self._request["collect"]["files"] > 0 and self._stage["name"] == "run" and not self._nothing_but(only_file):
            self._collecting = True
            self._slot.fork(renew=False)
        else:
            self._finish()

    def child_room(self) -> None:
        """The child takes more."""
        self._listener.child_room()

    def over_limit(self, limit: str) -> None:
        """The cell has killed everything for using too much of something."""
        self._cause = self._cause or limit

    def cell_lost(self, reason: str) -> None:
        """The whole cell is gone."""
        if self._cause in ("timeout", "output", "memory", "processes", "workspace") and not self._stage_over:
            self._end_stage(None, 9, 0, 0)
            self._finish(lost=True)
        elif not self._over:
            if not self._stage_over or self._collecting:
                self._emit({"type": "lost", "reason": reason})
            self._finish(lost=True)

    # Stages

    def _next_stage(self) -> None:
        self._stage = stage = self._stages.pop(0)
        self._stage_over, self._cause, self._code = False, "", None
        self._written = {"stdout": 0, "stderr": 0}
        if self._slot.group is not None:
            self._slot.group.reset()
        request = {
            "type": "run",
            "python": stage.get("python", False),
            "argv": stage.get("argv"),
            "file": stage.get("file"),
            "args": stage.get("args"),
            "env": self._request["env"],
            "stream": self.stream,
            "stamp": self._request["stamp"],
            "files": self._files_left,
            "limits": stage["limits"],
        }
        last = not self._stages
        self._slot.send(pack(request), self._stdin_read if last else -1)
        if last and self._stdin_read >= 0:
            os.close(self._stdin_read)
            self._stdin_read = -1
        self._started = time.monotonic()
        self._deadline = self._loop.call_after(stage["wall_s"], lambda: self.end("timeout"))
        self._emit({"type": "started", "stage": stage["name"], "after_ms": (self._started - self._asked) * 1e3})

    def _end_stage(self, code: int | None, signal_number: int | None, cpu_ns: int, memory: int) -> None:
        self._slot.drain_output()
        self._stage_over = True
        self._succeeded = code == 0 and not self._cause
        if self._deadline is not None:
            self._deadline.cancel()
        ended: dict[str, Any] = {
            "type": "ended",
            "stage": self._stage["name"],
            "exit_code": code,
            "signal": signal_number,
            "cause": self._cause,
            "detail": self._detail,
            "wall_ms": (time.monotonic() - self._started) * 1e3,
            "cpu_ms": cpu_ns / 1e6,
            "memory_bytes": memory,
            "written": self._written,
        }
        if self._slot.group is not None:
            usage = self._slot.group.usage()
            ended.update(cpu_ms=usage.cpu_ns / 1e6, oom_kills=usage.oom_kills, refused=usage.pids_refused)
            ended["memory_bytes"] = memory if usage.memory_bytes is None else usage.memory_bytes
        self._emit(ended)

    def _kill(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._slot.kill()

    def _nothing_but(self, only_file: str) -> bool:
        """Whether that is the job's program, and all that it brought: then there is nothing to collect."""
        return len(self._inputs) == 1 and only_file in self._inputs

    # Files

    def _collect(self) -> None:
        wanted = self._request["collect"]
        request = {
            "type": "collect",
            "inputs": self._inputs,
            "stamp": self._request["stamp"],
            "entries": ENTRIES,
            "skipped": SKIPPED,
            **wanted,
        }
        text = pack(request)
        self._slot.send(text)
        self._deadline = self._loop.call_after(self._options.collect_s, self._collect_too_slow)

    def _collected(self, kind: object, header: Header, body: bytes) -> None:
        if kind == "file" and len(body) <= CHUNK:
            self._emit(header, body)
        elif kind == "skipped":
            self._emit(header)
        elif kind == "collected":
            self._finish()

    def _collect_too_slow(self) -> None:
        self._emit_collect_failure()
        self._slot.destroy()
        self._finish(lost=True)

    def _emit_collect_failure(self) -> None:
        self._emit({"type": "skipped", "name": ".", "reason": "the files could not be read in time, or not at all"})

    def _finish(self, lost: bool = False) -> None:
        """There is no more to come; `lost` where nothing good is to be said of the slot."""
        if self._over:
            return
        self._over = True
        if self._deadline is not None:
            self._deadline.cancel()
        if self.stdin is not None:
            self.stdin.close()
        if self._stdin_read >= 0:
            os.close(self._stdin_read)
            self._stdin_read = -1
        if not lost or self._stage_over:
            self._emit({"type": "done"})
        self._listener.over()
