"""From a job to what the agent is asked: files to write, stages to run, limits to hold. Plain data, no I/O."""

import math
import time
from pathlib import PurePosixPath
from typing import Any

from ..agent.frames import CHUNK, Header
from ..agent.options import USUAL_ENV
from ..agent.pipes import ANSWERS, CALLS
from ..agent.slate import Slate
from ..job import Job, Limits, Reuse
from ..spec import Content, Language, Workspace
from ..tools import Tools
from .framing import pack
from .present import Present

TOOLS_ENV = {"RUNNERD_CALLS": str(CALLS), "RUNNERD_ANSWERS": str(ANSWERS)}
"""How a program that may call tools finds its descriptors."""
COMPILE_FILE_BYTES = 512 << 20
"""A tool chain writes larger files than a job may: archives, binaries. The workspace's own size holds in any case."""
COLLECT_FACTOR = 4
"""All files of a job together may be so many times as large as one."""


def files(job: Job, language: Language) -> list[tuple[str, bytes]]:
    """Names and contents of all files that the job brings, its program first."""
    brought = {file.name: file.content for file in job.files}
    if job.code is not None:
        name, code = language.saved_as(job.code), job.code.encode()
        brought.pop(name, None)
    else:
        name = job.entry or job.files[0].name
        code = brought.pop(name)
    return [(name, code), *brought.items()]


def stateful(language: Language, workspace: Workspace) -> bool:
    """Whether the program has variables of earlier ones, or is to leave its own: of warm interpreters only."""
    return language.warmup == "python" and (workspace.state is not None or workspace.state_bytes > 0)


def environment(language: Language) -> dict[str, str]:
    """What a job asks for that wants nothing of its own."""
    return {**USUAL_ENV, **language.env}


def longest_s(language: Language, limits: Limits, tools: Tools | None) -> float:
    """How long the stages of a job may last, in seconds, with all that it may wait for answers of tools."""
    stages = 1 if language.compile is None else 2
    return stages * (limits.wall_s or 0) + (tools.settings.wait_s if tools is not None else 0)


class Asked:
    """What of a workspace goes into the sandbox, beside what the job itself brings."""

    def __init__(self, job: Job, language: Language, workspace: Workspace, present: Present | None = None) -> None:
        """`present`: what is there already, where the sandbox is to be kept for the next job."""
        own = {name for name, _ in files(job, language)}
        above = {str(directory) for name in own for directory in PurePosixPath(name).parents}
        self.files = [content for content in workspace.files if not _hidden(content.name, own, above)]
        self._state = workspace.state if language.warmup == "python" else None
        self.header: Header = {"begins": True}
        if present is not None:
            self._add_to(present, own)
        if stateful(language, workspace):
            on_error = workspace.state_on_error
            self.header["state"] = {
                "load": self._state is not None,
                "size": self._state.size if self._state is not None else 0,
                "most": workspace.state_bytes,
                "on_error": on_error,
            }
            if present is None and workspace.state_stays and self._state is not None:
                self.header["state"]["stays"] = True

    def _add_to(self, present: Present, own: set[str]) -> None:
        wanted = self.files
        if present.jobs:
            self.header["remove"] = present.surplus(wanted, own)
        self.files = present.lacking(wanted)
        if present.asleep:
            self._state = None
        present.bring(wanted, own)

    def slate(self) -> Slate | None:
        """Memory to hand snapshots over in, where there are to be some. From now on the request says that it comes along."""
        state = self.header.get("state")
        if state is None:
            return None
        state["shared"] = True
        return Slate.make(max(state["size"], state["most"]))

    def contents(self) -> list[tuple[Header, Content]]:
        """All contents to send, in this order, each with the header of its frames."""
        contents: list[tuple[Header, Content]] = [({"type": "file", "name": content.name}, content) for content in self.files]
        return contents if self._state is None else [*contents, ({"type": "state"}, self._state)]


def _hidden(name: str, own: set[str], above: set[str]) -> bool:
    """Whether a file of the job's own takes the place of this one, or of a directory that it is in."""
    return name in own or name in above or any(str(directory) in own for directory in PurePosixPath(name).parents)


def build(
    job: Job,
    language: Language,
    limits: Limits,
    cpu_cores: float,
    tmp: str,
    asked: Asked | None = None,
    tools: Tools | None = None,
    keep: Reuse = "job",
) -> list[bytes]:
    """All frames to send: the `run` request, the files, standard input. `tmp` is the sandbox's directory for temporary files.

    Where something is `asked` of a workspace, that follows, and then standard input. `keep`: for what else than this job.
    """
    brought = files(job, language)
    header: Header = {
        "type": "run",
        "tenant": job.tenant,
        "stages": _stages(job, language, limits, brought[0], tmp),
        "env": {**environment(language), **job.env},
        "limits": {"memory_bytes": limits.memory_bytes, "processes": limits.processes, "cpu_cores": cpu_cores},
        "files": len(brought),
        "stdin": bool(job.input) or job.interactive,
        "stream": job.stream,
        "stamp": (int(time.time()) - 1) * 1_000_000_000,
        "collect": {
            "files": limits.files,
            "file_bytes": limits.file_bytes,
            "total_bytes": (limits.file_bytes or 0) * COLLECT_FACTOR,
        },
    }
    if tools is not None:
        most = tools.settings
        header["tools"] = {"calls": most.calls, "open": most.open, "bytes": most.bytes, "wait_s": most.wait_s}
        header["env"].update(TOOLS_ENV)
    if keep != "job":
        header["keep"] = keep
    if asked is not None:
        header["files"] += len(asked.files)
        header.update(asked.header)
    frames = [pack(header)]
    for name, content in brought:
        frames += _chunks({"type": "file", "name": name}, content)
    return frames if asked is not None else frames + stdin(job)


def stdin(job: Job) -> list[bytes]:
    """The frames of standard input, none where there is none; its end is among them unless more may come."""
    frames = piece(job.input)
    return [*frames, END_OF_INPUT] if frames and not job.interactive else frames


def piece(data: bytes) -> list[bytes]:
    """The frames of a piece of standard input."""
    return [pack({"type": "stdin"}, data[i : i + CHUNK]) for i in range(0, len(data), CHUNK)]


END_OF_INPUT = pack({"type": "stdin"})


def answer(line: bytes) -> list[bytes]:
    """The frames of the answer to a call."""
    return _chunks({"type": "answer"}, line)


def _stages(job: Job, language: Language, limits: Limits, program: tuple[str, bytes], tmp: str) -> list[dict[str, Any]]:
    name, code = program
    common = {"wall_s": limits.wall_s, "output_bytes": limits.output_bytes}
    held = {
        "open_files": limits.open_files,
        "processes": limits.processes,
        "cpu_s": max(1, math.ceil(limits.cpu_s or 0)),
        "file_bytes": limits.file_bytes,
    }

    def argv(command: tuple[str, ...]) -> tuple[str, ...]:
        text = code.decode(errors="replace")
        return language.argv(command, file=name, code=text, tmp=tmp, memory_bytes=limits.memory_bytes or 0)

    stages: list[dict[str, Any]] = []
    if language.compile is not None:
        room = {**held, "file_bytes": COMPILE_FILE_BYTES}
        stages.append({"name": "compile", "argv": argv(language.compile), "limits": room, **common})
    if language.warmup == "python":
        stages.append({"name": "run", "python": True, "file": name, "args": job.args, "limits": held, **common})
    else:
        stages.append({"name": "run", "argv": [*argv(language.run), *job.args], "limits": held, **common})
    return stages


def _chunks(header: Header, content: bytes) -> list[bytes]:
    if len(content) <= CHUNK:
        return [pack(header, content)]
    frames = []
    for i in range(0, len(content), CHUNK):
        more = i + CHUNK < len(content)
        frames.append(pack({**header, "more": True} if more else header, content[i : i + CHUNK]))
    return frames
