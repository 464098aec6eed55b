"""From a job to what the agent is asked: files to write, stages to run, limits to hold. Plain data, no I/O."""

import re
import time
from pathlib import PurePosixPath
from typing import Any

from ..agent.frames import CHUNK, Header, pack
from ..job import Job, Limits
from ..spec import Language

BASE_ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
COMPILE_FILE_BYTES = 512 << 20
"""A tool chain writes larger files than a job may: archives, binaries. The workspace's own size holds in any case."""
COLLECT_FACTOR = 4
"""All files of a job together may be so many times as large as one."""


def program_name(job: Job, language: Language) -> str:
    """The file that is the program."""
    if job.code is None:
        return job.entry or job.files[0].name
    name = PurePosixPath(language.filename)
    if language.filename_pattern:
        found = re.search(language.filename_pattern, job.code)
        if found:
            name = name.with_name(found.group(1) + name.suffix)
    return str(name)


def files(job: Job, language: Language) -> list[tuple[str, bytes]]:
    """Names and contents of all files that the job brings, its program among them."""
    brought = [(file.name, file.content) for file in job.files]
    if job.code is None:
        return brought
    name = program_name(job, language)
    return [(name, job.code.encode()), *(file for file in brought if file[0] != name)]


def build(job: Job, language: Language, limits: Limits, cpu_cores: float, warm_python: bool) -> tuple[Header, list[bytes]]:
    """The `run` header, and all frames to send: itself, the files, standard input."""
    brought = files(job, language)
    stages = _stages(job, language, limits, warm_python)
    header: Header = {
        "type": "run",
        "tenant": job.tenant,
        "stages": stages,
        "env": {**BASE_ENV, **language.env, **job.env},
        "limits": {"memory_bytes": limits.memory_bytes, "processes": limits.processes, "cpu_cores": cpu_cores},
        "files": len(brought),
        "stdin": bool(job.input),
        "stream": job.stream,
        "stamp": (int(time.time()) - 1) * 1_000_000_000,
        "collect": {
            "files": limits.files,
            "file_bytes": limits.file_bytes,
            "total_bytes": (limits.file_bytes or 0) * COLLECT_FACTOR,
        },
    }
    frames = [pack(header)]
    for name, content in brought:
        frames += _chunks({"type": "file", "name": name}, content)
    if job.input:
        frames += [pack({"type": "stdin"}, job.input[i : i + CHUNK]) for i in range(0, len(job.input), CHUNK)]
        frames.append(pack({"type": "stdin"}))
    return header, frames


def _stages(job: Job, language: Language, limits: Limits, warm_python: bool) -> list[dict[str, Any]]:
    name = program_name(job, language)
    common = {"wall_s": limits.wall_s, "output_bytes": limits.output_bytes}
    held = {
        "open_files": limits.open_files,
        "processes": limits.processes,
        "cpu_s": max(1, round(limits.cpu_s or 0)),
        "file_bytes": limits.file_bytes,
    }
    stages: list[dict[str, Any]] = []
    if language.compile is not None:
        argv = _argv(language.compile, name)
        stages.append({"name": "compile", "argv": argv, "limits": {**held, "file_bytes": COMPILE_FILE_BYTES}, **common})
    if warm_python and language.warmup == "python":
        stages.append({"name": "run", "python": True, "file": name, "args": list(job.args), "limits": held, **common})
    else:
        argv = [*_argv(language.run, name), *job.args]
        stages.append({"name": "run", "argv": argv, "limits": held, **common})
    return stages


def _argv(template: tuple[str, ...], name: str) -> list[str]:
    stem = name.rpartition(".")[0] or name
    return [part.replace("{file}", name).replace("{stem}", stem) for part in template]


def _chunks(header: Header, content: bytes) -> list[bytes]:
    if len(content) <= CHUNK:
        return [pack(header, content)]
    frames = []
    for i in range(0, len(content), CHUNK):
        more = i + CHUNK < len(content)
        frames.append(pack({**header, "more": True} if more else header, content[i : i + CHUNK]))
    return frames
