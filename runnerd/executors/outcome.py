"""From the agent's frames to the job's events and its result. Plain code, no I/O."""

import signal
from typing import Literal, cast

from ..agent.frames import Header
from ..errors import SandboxLost
from ..job import Event, File, Job, Limits, Output, Result, SandboxInfo, Skipped, Stage, Started, Status, Usage, text_of
from .request import COLLECT_FACTOR

StageName = Literal["compile", "run"]
StreamName = Literal["stdout", "stderr"]
CAUSES: dict[str, tuple[Status, str | None, str]] = {
    "timeout": ("timeout", "wall_s", "ran longer than {limits.wall_s:g} s"),
    "output": ("limit", "output_bytes", "wrote far more than the {limits.output_bytes} bytes of output that are kept"),
    "memory": ("oom", "memory_bytes", "used more than {limits.memory_bytes} bytes of memory"),
    "processes": ("limit", "processes", "wanted more than {limits.processes} processes"),
    "workspace": ("limit", "workspace_bytes", "its files do not fit into the sandbox's workspace"),
    "input": ("rejected", None, "its files could not be written into the workspace"),
    "start": ("dead", None, "{detail}"),
}
"""What the agent ended a stage for: status, name of the limit, reason."""
MOST_SKIPPED = 1000
"""Names of files that are not returned; an agent sends fewer."""


class Outcome:
    """What is known of a job while it runs. Feed it the agent's frames; `result` is complete after `done`.

    An agent may have a job beside it that took it over: what it sends is held to the job's limits here once more.
    """

    def __init__(self, job: Job, limits: Limits, info: SandboxInfo) -> None:
        self._job = job
        self._limits = limits
        self._info = info
        self._output: dict[tuple[str, str], bytearray] = {}
        self._held: dict[str, bytes] = {"stdout": b"", "stderr": b""}
        self._seq = {"stdout": 0, "stderr": 0}
        self._stages: dict[str, Header] = {}
        self._prepared_ms = 0.0
        self._files: list[File] = []
        self._open: bytearray = bytearray()
        self._skipped: list[Skipped] = []
        streams = 4  # two of each stage
        self._room = streams * (limits.output_bytes or 0) + COLLECT_FACTOR * (limits.file_bytes or 0)
        """Bytes that may still come."""

    def feed(self, header: Header, body: bytes) -> list[Event]:
        """Take a frame; returns the events that it means for a listener. Raises SandboxLost where it is more than the job may have."""
        kind = header["type"]
        self._room -= len(body)
        if self._room < 0 or len(self._files) > (self._limits.files or 0) or len(self._skipped) > MOST_SKIPPED:
            raise SandboxLost("the agent sends more than the job may write and leave")
        if kind == "output":
            return self._take_output(header["stage"], header["stream"], body)
        if kind == "started":
            if not self._stages:
                self._prepared_ms = header["after_ms"]
            return [Started(id=self._job.id, stage=header["stage"])]
        if kind == "ended":
            self._stages[header["stage"]] = header
            return self._flush(header["stage"])
        if kind == "file" and header.get("cut"):  # its end does not come
            self._open = bytearray()
        elif kind == "file":
            self._open += body
            if not header.get("more"):
                self._files.append(File(name=header["name"], data=bytes(self._open)))
                self._open = bytearray()
        elif kind == "skipped":
            self._skipped.append(Skipped(name=header["name"], reason=header["reason"]))
        return []

    def _take_output(self, stage: str, stream: str, body: bytes) -> list[Event]:
        self._output.setdefault((stage, stream), bytearray()).extend(body)
        if not self._job.stream:
            return []
        body = self._held[stream] + body
        whole = len(body) - _unfinished(body)
        self._held[stream] = body[whole:]
        return [self._event(stage, stream, body[:whole])] if whole else []

    def _flush(self, stage: str) -> list[Event]:
        events: list[Event] = []
        for stream, held in self._held.items():
            if held:
                events.append(self._event(stage, stream, held))
                self._held[stream] = b""
        return events

    def _event(self, stage: str, stream: str, data: bytes) -> Output:
        self._seq[stream] += 1
        text, exact = text_of(data)
        return Output(
            id=self._job.id,
            stream=cast(StreamName, stream),
            seq=self._seq[stream],
            text=text if exact is None else "",
            data=exact,
            stage=cast(StageName, stage),
        )

    def result(self) -> Result:
        """The job's result. Its id, tenant, waiting time and starts are for the scheduler to fill in."""
        name: StageName = "run" if "run" in self._stages else "compile"
        ended = self._stages[name]
        status, limit, reason = self._verdict(ended)
        stdout, stdout_bytes = text_of(self._text("run", "stdout"))
        stderr, stderr_bytes = text_of(self._text("run", "stderr"))
        written = self._stages.get("run", {}).get("written", {"stdout": 0, "stderr": 0})
        return Result(
            id=self._job.id,
            status=status,
            reason=reason,
            limit=limit,
            stage=name,
            exit_code=ended["exit_code"],
            signal=ended["signal"],
            stdout=stdout,
            stdout_bytes=stdout_bytes,
            stdout_truncated=written["stdout"] > len(self._text("run", "stdout")),
            stderr=stderr,
            stderr_bytes=stderr_bytes,
            stderr_truncated=written["stderr"] > len(self._text("run", "stderr")),
            compile=self._compile(),
            files=tuple(self._files),
            skipped=tuple(self._skipped),
            usage=self._usage(),
            sandbox=self._info,
        )

    def _text(self, stage: str, stream: str) -> bytes:
        return bytes(self._output.get((stage, stream), b""))

    def _compile(self) -> Stage | None:
        ended = self._stages.get("compile")
        if ended is None:
            return None
        stdout, stdout_bytes = text_of(self._text("compile", "stdout"))
        stderr, stderr_bytes = text_of(self._text("compile", "stderr"))
        return Stage(
            exit_code=ended["exit_code"],
            signal=ended["signal"],
            stdout=stdout,
            stdout_bytes=stdout_bytes,
            stderr=stderr,
            stderr_bytes=stderr_bytes,
            ran_ms=round(ended["wall_ms"], 3),
        )

    def _usage(self) -> Usage:
        stages = self._stages.values()
        return Usage(
            prepared_ms=round(self._prepared_ms, 3),
            ran_ms=round(sum(stage["wall_ms"] for stage in stages), 3),
            cpu_ms=round(sum(stage["cpu_ms"] for stage in stages), 3),
            memory_bytes=max(stage["memory_bytes"] for stage in stages),
        )

    def _verdict(self, ended: Header) -> tuple[Status, str | None, str]:
        """Status, limit and reason of the stage that was the job's last."""
        cause = ended["cause"]
        refused = ended.get("refused", 0)
        if cause == "timeout" and refused:
            return "limit", "processes", f"wanted more than {self._limits.processes} processes, and ran into its time limit"
        if cause:
            status, limit, reason = CAUSES[cause]
            return status, limit, reason.format(limits=self._limits, detail=ended["detail"])
        if ended.get("oom_kills"):  # whatever was killed of it: a program may not notice, and exit 0
            return "oom", "memory_bytes", f"used more than {self._limits.memory_bytes} bytes of memory"
        if ended["exit_code"] == 0:
            return "ok", None, ""
        if ended["signal"] == signal.SIGXCPU or (ended["signal"] == signal.SIGKILL and self._cpu_used_up(ended)):
            return "limit", "cpu_s", f"used more than {self._limits.cpu_s:g} s of CPU time"
        if ended["signal"] == signal.SIGXFSZ:
            return "limit", "file_bytes", f"wrote a file of more than {self._limits.file_bytes} bytes"
        if refused:
            return "limit", "processes", f"wanted more than {self._limits.processes} processes"
        return "failed", None, "" if ended["signal"] is None else f"ended by {_signal_name(ended['signal'])}"

    def _cpu_used_up(self, ended: Header) -> bool:
        return bool(ended["cpu_ms"] >= (self._limits.cpu_s or 0) * 1000)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _unfinished(data: bytes) -> int:
    """How many bytes at the end begin a UTF-8 character that is not complete yet."""
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back if length > back else 0
        if byte < 0x80:
            return 0
    return 0
