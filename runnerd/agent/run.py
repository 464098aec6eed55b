"""One job on its way through a slot: its stages, its deadline, what it may write, and the files it leaves."""

from __future__ import annotations

import os
import time
from typing import Any, Protocol

from .clock import Clock
from .frames import Header, begin, pack
from .gathering import GATHERED, Gathering, GatheringListener
from .keeping import Keeping, KeepingListener
from .loop import Loop, Timer
from .options import Options
from .pipes import PipeListener, Pipes
from .slot import Slot, Tenant

FLOOD = 64
"""A program that writes so many times more than is kept is ended."""


class RunListener(GatheringListener, PipeListener, KeepingListener, Protocol):
    """The lease, as its run sees it."""

    def over(self) -> None:
        """There is no more to send. Called once."""


class Run(Tenant):
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
        self._changed = 0
        self._keeping = Keeping(request["state"], listener) if request.get("state") else None
        self._begins = False
        """Whether the child says when the program begins, and has not yet."""
        self._taking = False
        """Whether the program has ended and gives up its variables."""
        self._dirty: object = None
        self._deadline: Timer | Clock | None = None
        self._started = asked
        self._written = {"stdout": 0, "stderr": 0}
        self._cause = ""
        self._detail = ""
        self._succeeded = False
        self._code: int | None = None
        self._stage_over = False
        self._ended = 0.0
        """When the program said that it had ended, where it lives on to give up its variables."""
        self._gathering: Gathering | None = None
        self._over = False
        self.stream: bool = request.get("stream", False)
        """Whether output is wanted as it is written."""
        self.pipes = Pipes(loop, request, listener)

    def start(self) -> None:
        """Set the limits and give the waiting child its request; the files follow through `file`."""
        if self._limit():
            self._next_stage()

    def _limit(self) -> bool:
        limits = self._request["limits"]
        try:
            self._slot.limit(limits["memory_bytes"], limits["processes"], limits["cpu_cores"])
        except OSError:  # less than the standby child has in use
            self._stage, self._cause = self._stages[-1], "memory"
            self._end_stage(None, None, 0, 0)
            self._finish()
            self._slot.kill()
            return False
        return True

    def file(self, header: Header, body: bytes) -> None:
        """Pass a file of the job on to its child."""
        name, more = header["name"], header.get("more", False)
        self._inputs[name] = self._inputs.get(name, 0) + len(body)
        self._files_left -= not more
        self._slot.send(begin({"name": name, "more": True} if more else {"name": name}, len(body)))
        self._slot.send(body)

    def state(self, header: Header, body: bytes) -> None:
        """Take a piece of the snapshot, for the child that is to load it."""
        told = self._keeping.arrive(header, body) if self._begins and self._keeping is not None else None
        if told is not None:
            self._slot.send(pack(told))

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
        if self._gathering is not None:
            wanted = {"inputs": self._inputs, "stamp": self._request["stamp"], "changed": self._changed, **self._request["collect"]}
            self._gathering.start(wanted)
        elif self._limit():  # the cell forgets them when a child ends
            self._next_stage()

    def child_said(self, header: Header, body: bytes) -> None:
        """A frame of the child."""
        kind = header.get("type")
        if self._gathering is not None:
            if self._gathering.take(kind, header, body):
                self._finish()
        elif self._taking and self._keeping is not None:
            if self._keeping.take(kind, header):
                self._leave()
        elif self._stage_over or self._code is not None:
            pass
        elif self._begins and kind == "loading":
            self._load(header)
        elif self._begins and kind == "began":
            self._begin(header)
        elif kind == "done" and self._stage.get("python") and isinstance(header.get("code"), int):
            self._done(header["code"] & 0xFF, header.get("dirty"))
        elif kind == "failed":
            # A warm program could say so too: all it gets by that is a result that says so, in our words.
            warm = self._stage.get("python")
            self._cause = "workspace" if header.get("limit") == "workspace_bytes" else "input" if warm else "start"
            self._detail = "" if warm else str(header.get("reason", ""))[:500]

    def _done(self, code: int, dirty: object) -> None:
        """A warm program says that it has ended; believed of its own code and files only, and killed for it."""
        self._code, self._dirty = code, dirty
        if self._keeping is not None and self._keeping.wanted(code):
            self._await_state()
        else:
            self._leave()

    def _leave(self) -> None:
        """A warm program has said all: end it."""
        self._taking = False
        if not self._slot.kill_alone():
            self._kill()
            return
        if not self._stage_over:
            self._end_stage(self._code, None, 0, 0)
        if self._dirty is False and len(self._inputs) == 1:
            self._finish()

    def output(self, stream: str, data: bytes) -> None:
        """Pass output on, as much as is kept of it; a flood ends the job."""
        if self._stage_over or self._ended or self._gathering is not None:
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
        if self._code is None or self._taking or self._gathering is not None:
            return
        if not self._stage_over:
            self._end_stage(self._code, None, cpu_ns, memory)
        if self._nothing_but(only_file):
            self._finish()

    def child_ended(self, status: int, cpu_ns: int, memory: int, only_file: str) -> None:
        """The stage is over, if it was not already; go on with the next, with its files, or not at all."""
        if self._gathering is not None:
            self._gathering.end(failed=True)
            self._finish()
            return
        if self._begins and not self._cause and self._not_begun(status):
            return
        self._stop_taking("died")
        if not self._stage_over:
            code = os.waitstatus_to_exitcode(status) if self._code is None else self._code
            self._end_stage(code if code >= 0 else None, -code if code < 0 else None, cpu_ns, memory)
        if self._stages and self._succeeded:
            self._slot.fork(renew=False)
        elif self._request["collect"]["files"] > 0 and self._stage["name"] == "run" and not self._nothing_but(only_file):
            self._gather()
        else:
            self._finish()

    def child_room(self) -> None:
        """The child takes more."""
        self._listener.child_room()

    def executor_room(self) -> None:
        """The executor takes more: of a snapshot, where one is on its way to it."""
        if self._taking and self._keeping is not None and self._keeping.pouring and self._keeping.pour():
            self._leave()

    def over_limit(self, limit: str) -> None:
        """The cell has killed everything for using too much of something."""
        if self._keeping is not None and self._keeping.loading:
            self._keeping.end_loading("memory")
        elif self._taking:
            self._stop_taking("memory")
        else:
            self._cause = self._cause or limit

    def cell_lost(self, reason: str) -> None:
        """The whole cell is gone."""
        self._stop_taking("died")
        if self._ended and not self._stage_over:  # the program had ended by itself
            self._end_stage(self._code, None, 0, 0)
        if self._cause in ("timeout", "output", "memory", "processes", "workspace") and not self._stage_over:
            self._end_stage(None, 9, 0, 0)
            self._finish(lost=True)
        elif not self._over:
            if not self._stage_over or self._gathering is not None:
                self._emit({"type": "lost", "reason": reason})
            self._finish(lost=True)

    # Stages

    def _next_stage(self) -> None:
        self._stage = stage = self._stages.pop(0)
        self._begins = self._request.get("begins", False) and self._files_left > 0
        self._stage_over, self._cause, self._code = False, "", None
        self._written = {"stdout": 0, "stderr": 0}
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
        if self._begins:
            request["begins"] = True
        if self._keeping is not None and stage.get("python"):
            request["state"] = {**self._request["state"], "load": self._keeping.load}
        request.update(self._asks(stage))
        theirs = {} if self._stages else self.pipes.theirs
        if theirs:
            request["fds"] = list(theirs)
        slates = [self._keeping.slate.fd] if self._keeping is not None and "state" in request else []
        self._slot.send(pack(request), [*theirs.values(), *slates])
        if not self._begins:
            self._start_clock()

    def _asks(self, stage: Header) -> Header:  # noqa: ARG002 - for those that override it
        """What else the child is asked for."""
        return {}

    def _start_clock(self) -> None:
        """The program runs from now on."""
        self._started = time.monotonic()
        stage = self._stage
        if self._stages:
            self._deadline = self._loop.call_after(stage["wall_s"], lambda: self.end("timeout"))
        else:
            self._deadline = self.pipes.clock(stage["wall_s"], lambda: self.end("timeout"), self._slot.catch_up)
            self.pipes.drop_theirs()
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
            "wall_ms": ((self._ended or time.monotonic()) - self._started) * 1e3,
            "written": self._written,
        }
        self._emit({**ended, **self._slot.cost(cpu_ns, memory)})

    def _kill(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._slot.kill()

    def _nothing_but(self, only_file: str) -> bool:
        """Whether that is the job's program, and all that it brought: then there is nothing to collect."""
        return len(self._inputs) == 1 and only_file in self._inputs

    # Variables

    def _load(self, header: Header) -> None:
        """The child has all that it is to have, and loads the snapshot."""
        self._changed = header.get("changed", 0)
        if self._keeping is not None and self._keeping.begin_loading():
            self._deadline = self._loop.call_after(self._options.state_s, self._load_too_slow)

    def _load_too_slow(self) -> None:
        if self._keeping is not None:
            self._keeping.end_loading("time")
            self._kill()

    def _begin(self, header: Header) -> None:
        """The program begins, with the variables of an earlier one or without."""
        self._begins = False
        if self._deadline is not None:
            self._deadline.cancel()
        self._changed = self._changed or header.get("changed", 0)
        if self._keeping is not None:
            self._keeping.loaded(header)
        self._start_clock()

    def _not_begun(self, status: int) -> bool:
        """The child has ended before the program: another one runs it where this one loaded a snapshot. False where the job is over."""
        if self._keeping is None or not self._keeping.loading:
            if self._slot.cost(0, 0).get("oom_kills"):  # its files take too much
                return False
            self._emit({"type": "lost", "reason": f"its child ended before the program began (wait status {status})"})
            self._finish(lost=True)
            return True
        self._keeping.unloadable()
        if self._deadline is not None:
            self._deadline.cancel()
        self._stages.insert(0, self._stage)
        self._slot.fork(renew=False)
        return True

    def _await_state(self) -> None:
        """The program has ended: whatever becomes of its variables, that is its result."""
        self._slot.drain_output()
        self._taking, self._ended = True, time.monotonic()
        if self._deadline is not None:
            self._deadline.cancel()
        if self._slot.group is not None:
            self._end_stage(self._code, None, 0, 0)
        self._deadline = self._loop.call_after(self._options.state_s, self._take_too_slow)

    def _take_too_slow(self) -> None:
        if self._listener.made_wait():
            self._deadline = self._loop.call_after(self._options.state_s, self._take_too_slow)
        else:
            self._stop_taking("time")
            self._leave()

    def _stop_taking(self, why: str) -> None:
        if self._taking and self._keeping is not None:
            self._keeping.cut(why)
        self._taking = False

    # Files

    def _gather(self) -> None:
        """Nothing of the job runs any more: another child collects what it left."""
        self._gathering = Gathering(self._loop, self._slot, self._listener, self._options.collect_s, self._gather_too_slow)
        self._slot.fork(renew=False, said=GATHERED)

    def _gather_too_slow(self) -> None:
        if self._gathering is not None:
            self._gathering.end(failed=True)
        self._slot.destroy()
        self._finish(lost=True)

    def _finish(self, lost: bool = False) -> None:
        """There is no more to come; `lost` where nothing good is to be said of the slot."""
        if self._over:
            return
        self._over = True
        if self._deadline is not None:
            self._deadline.cancel()
        if self._gathering is not None:
            self._gathering.end()
        if self._keeping is not None:
            self._keeping.slate.close()
        self.pipes.close()
        if not lost or self._stage_over:
            self._emit(self._last_words())
        self._listener.over()

    def _last_words(self) -> Header:
        return {"type": "done"}
