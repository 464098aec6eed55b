"""A job after which its sandbox stands ready for another: empty, for one of the same tenant; or for the next one of its session.

For that, its files stay, and its interpreter where it can.

An interpreter that lives on is stopped as soon as its program has ended, provided that nothing else is left in the cell. Then
another child collects the files; and with the next job it goes on.

    fork ── program ends ── sleep ── collect ── wake ── program ends ── …
"""

from __future__ import annotations

from .frames import Header, pack
from .loop import Loop
from .options import Options
from .run import Run, RunListener
from .slot import Slot


class Remains:
    """What a job has left standing."""

    def __init__(self, stamp: int) -> None:
        self.stamp = stamp
        """Time of all files that were not touched since they were written or collected, in ns."""
        self.changed = 0
        """When the last of them was, by the clock that nobody can set (ctime), in ns."""
        self.inputs: dict[str, int] = {}
        """Their sizes by name."""
        self.missing: list[str] = []
        """Those that the job has removed."""
        self.asleep = False
        """Whether its interpreter waits for another program."""


class NestedRun(Run):
    """A job after which nothing of it is left, and the next of its tenant can come where the cell has not been lost."""

    kept = False

    def _finish(self, lost: bool = False) -> None:
        self.kept = self.kept or (not lost and not self._over)
        super()._finish(lost)

    def _last_words(self) -> Header:
        return {**super()._last_words(), "kept": self.kept}


class LastingRun(Run):
    """A job that may find what another has left, and leaves it to a next one where it ends well: see `remains`."""

    def __init__(
        self, loop: Loop, options: Options, slot: Slot, request: Header, listener: RunListener, asked: float, found: Remains | None
    ) -> None:
        remains = found or Remains(request["stamp"])
        collect = {**request["collect"], "restamp": True}
        super().__init__(loop, options, slot, {**request, "stamp": remains.stamp, "collect": collect}, listener, asked)
        self.remains: Remains | None = None
        """What is left for the next job; None for nothing, and until this one is over."""
        self._remains = remains
        self._remains.missing = []
        self._inputs = remains.inputs
        self._changed = remains.changed
        self._waking = remains.asleep
        """Whether an interpreter is to go on, and has not said yet that it does."""
        self._lives = False
        """Whether the interpreter says that it can go on after this job."""
        self._asleep = False
        remains.asleep = False
        for name in request.get("remove", ()):
            self._inputs.pop(name, None)

    def _asks(self, stage: Header) -> Header:
        asked: Header = {"lives_on": True} if self._keeping is not None and stage.get("python") else {}
        if "remove" in self._request:
            asked["remove"] = self._request.pop("remove")  # of the first stage, which has the files
        return asked

    # Going on

    def _next_stage(self) -> None:
        if not self._waking:
            super()._next_stage()
            return
        if self._keeping is None or not self._slot.wake():
            self._give_up("its interpreter has ended, or the job is for none")
            return
        self._stage = stage = self._stages.pop(0)
        if self._slot.group is not None:
            self._slot.group.reset()
        asked, theirs = self._request, self.pipes.theirs
        self._slot.send(
            pack(
                {
                    "type": "run",
                    **{name: stage[name] for name in ("file", "args")},
                    **{name: asked[name] for name in ("env", "stamp", "state", "remove")},
                    "stream": self.stream,
                    "cpu_s": stage["limits"]["cpu_s"],
                    "files": self._files_left,
                    "begins": True,
                    "fds": list(theirs),
                }
            ),
            [*theirs.values(), self._keeping.slate.fd],
        )
        self._be_patient()

    def file(self, header: Header, body: bytes) -> None:
        """Pass a file on; one that is long in coming is not what an interpreter that goes on has to answer for."""
        super().file(header, body)
        if self._waking:
            self._be_patient()

    def _be_patient(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self._loop.call_after(self._options.state_s, self._slot.destroy)

    def child_said(self, header: Header, body: bytes) -> None:
        """A frame of the child."""
        kind = header.get("type")
        if self._gathering is not None:
            self._note(kind, header)
        elif self._waking:
            if kind == "began" and not self._files_left and isinstance(header.get("changed"), int):
                self._changed = max(self._changed, header["changed"])
                self._go_on()
            return
        elif kind == "done":
            self._lives = header.get("lives") is True
        super().child_said(header, body)

    def child_ended(self, status: int, cpu_ns: int, memory: int, only_file: str) -> None:
        """The stage is over, or the interpreter did not go on."""
        if self._waking:
            self._give_up("its interpreter did not go on")
        else:
            super().child_ended(status, cpu_ns, memory, only_file)

    def _go_on(self) -> None:
        self._waking = False
        if self._deadline is not None:
            self._deadline.cancel()
        self._emit({"type": "loaded", "problem": "", "skipped": []})
        self._start_clock()

    def _give_up(self, reason: str) -> None:
        """What was kept is of no use: the job has not begun, and another sandbox takes it."""
        self._emit({"type": "lost", "reason": reason})
        self._finish(lost=True)

    # Keeping

    def _leave(self) -> None:
        if not (self._lives and self._code == 0 and not self._cause):
            super()._leave()
            return
        self._taking = False
        if self._deadline is not None:
            self._deadline.cancel()
        self._slot.sleep()

    def asleep(self, cpu_ns: int, memory: int, only_file: str) -> None:
        """The interpreter is stopped, and nothing else runs."""
        self._asleep = True
        if not self._stage_over:
            self._end_stage(self._code, None, cpu_ns, memory)
        if self._nothing_but(only_file):
            self._finish()
        else:
            self._gather()

    def sleeper_lost(self) -> None:
        """It has ended all the same: files are left, and the snapshot."""
        self._asleep = False

    def _note(self, kind: object, header: Header) -> None:
        """What is collected counts as an input from now on."""
        if kind == "file" and "size" in header:
            self._inputs[header["name"]] = header["size"]
        elif kind == "collected":
            self._changed = max(self._changed, header["changed"])
            self._remains.missing = header["missing"]
            for name in header["missing"]:
                self._inputs.pop(name, None)

    def _finish(self, lost: bool = False) -> None:
        complete = self._gathering is None or not self._gathering.failed
        if not lost and not self._over and self._succeeded and not self._stages and complete:
            self._remains.changed, self._remains.asleep = self._changed, self._asleep
            self.remains = self._remains
        super()._finish(lost)

    def _last_words(self) -> Header:
        remains = self.remains
        if remains is None:
            return super()._last_words()
        return {**super()._last_words(), "kept": True, "asleep": remains.asleep, "missing": remains.missing}
