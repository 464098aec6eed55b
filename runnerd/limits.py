"""What jobs may use. The settings are both the default and the most; a language multiplies them; a job may ask for less.

Nothing here means "unlimited": neither 0, nor a negative number, nor NaN, nor infinity, nor a number too large to enforce.
"""

import math
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from .errors import Rejected
from .job import Job, Limits
from .spec import Language

_LONGEST_S = 7 * 86_400
_LARGEST_BYTES = 1 << 50
_FIELDS = Limits.__struct_fields__
_WHOLE = frozenset(name for name in _FIELDS if not name.endswith("_s"))


class LimitSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one job may use, where its language multiplies nothing. Each is the default as well as the most."""

    wall_s: Annotated[float, Meta(gt=0, le=_LONGEST_S, extra={"env": "MAX_EXECUTION_TIME"})] = 30.0
    """Wall time of each stage, in seconds. Times the language's `wall_multiplier`."""
    memory_bytes: Annotated[int, Meta(ge=1 << 20, le=_LARGEST_BYTES, extra={"env": "MAX_MEMORY_MB"})] = 512 << 20
    """Memory of all processes and of all files in the sandbox together, in bytes. Times the language's `memory_multiplier`."""
    cpu_cores: Annotated[float, Meta(gt=0, le=1024, extra={"env": "MAX_CPU_QUOTA"})] = 1.0
    """CPUs that a job may keep busy at once; 0.5 is half of one. 100000 in MAX_CPU_QUOTA is one CPU."""
    cpu_s: Annotated[float, Meta(gt=0, le=_LONGEST_S)] | None = None
    """CPU time of each process, in seconds. None: as much as the wall time."""
    processes: Annotated[int, Meta(ge=1, le=1 << 22, extra={"env": "MAX_PIDS"})] = 512
    """Processes and threads of a job at once."""
    open_files: Annotated[int, Meta(ge=16, le=1 << 20, extra={"env": "MAX_OPEN_FILES"})] = 1024
    """Open files of each process."""
    output_bytes: Annotated[int, Meta(ge=1, le=1 << 30)] = 1 << 20
    """Bytes kept of standard output, and as many of standard error; what comes after them is dropped, and the result says so."""
    file_bytes: Annotated[int, Meta(ge=1, le=_LARGEST_BYTES, extra={"env": "MAX_FILE_SIZE_MB"})] = 10 << 20
    """Size of any one file, given to a job or written by it, in bytes."""
    files: Annotated[int, Meta(ge=1, le=100_000, extra={"env": "MAX_OUTPUT_FILES"})] = 10
    """Files that are returned of those that a job wrote."""
    filename_bytes: Annotated[int, Meta(ge=1, le=255, extra={"env": "MAX_FILENAME_LENGTH"})] = 255
    """Length of each part of a file's name, in bytes of UTF-8."""
    input_files: Annotated[int, Meta(ge=1, le=100_000)] = 50
    """Files that a job may bring along."""
    input_bytes: Annotated[int, Meta(ge=1, le=1 << 40)] = 50 << 20
    """Bytes of a job's code, files and standard input together."""
    body_bytes: Annotated[int, Meta(ge=1024, le=1 << 32)] = 64 << 20
    """Bytes of a message's body that came compressed, once it is decompressed. What a bus takes at once is the bus's limit."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}: {value} is no limit: give a finite number above 0")


def allowed(language: Language, settings: LimitSettings) -> Limits:
    """The most that a job of `language` gets, which is also what it gets unless it asks for less. Has no None.

    Raises ValueError where the language's multipliers are no finite numbers above 0.
    """
    for name, factor in (("wall_multiplier", language.wall_multiplier), ("memory_multiplier", language.memory_multiplier)):
        if not (math.isfinite(factor) and factor > 0):
            raise ValueError(f"language {language.code}: {name} is {factor}: it must be a finite number above 0")
    wall_s = min(settings.wall_s * language.wall_multiplier, _LONGEST_S)
    cpu_s = wall_s if settings.cpu_s is None else min(settings.cpu_s * language.wall_multiplier, _LONGEST_S)
    return Limits(
        wall_s=wall_s,
        cpu_s=cpu_s,
        memory_bytes=max(1, int(min(settings.memory_bytes * language.memory_multiplier, _LARGEST_BYTES))),
        processes=settings.processes,
        open_files=settings.open_files,
        output_bytes=settings.output_bytes,
        file_bytes=settings.file_bytes,
        files=settings.files,
    )


def effective(job: Job, language: Language, settings: LimitSettings) -> Limits:
    """The limits that hold for `job`: what it asks for, else the most that is allowed. Has no None.

    A job that asks for less wall time and says nothing of CPU time gets no more CPU time than wall time.
    Raises Rejected, naming the field, what was asked, what is allowed and the setting to raise.
    """
    most = allowed(language, settings)
    asked = {name: value for name in _FIELDS if (value := getattr(job.limits, name)) is not None}
    if not asked:
        return most
    for name, value in asked.items():
        _check(name, value, getattr(most, name), language)
    if settings.cpu_s is None and "wall_s" in asked:
        asked.setdefault("cpu_s", asked["wall_s"])
    return msgspec.structs.replace(most, **asked)


def _check(name: str, asked: float, most: float, language: Language) -> None:
    if not (math.isfinite(asked) and asked > 0):
        raise Rejected(f"limits.{name}: {asked} asked: it must be a finite number above 0, at most {_plain(most)}")
    if name in _WHOLE and asked != int(asked):
        raise Rejected(f"limits.{name}: {asked} asked: it must be a whole number, at most {_plain(most)}")
    if asked > most:
        raise Rejected(
            f"limits.{name}: {_plain(asked)} asked, at most {_plain(most)} allowed for {language.code}: "
            f"ask for less, or raise the daemon's setting limits.{name}"
        )


def check_input(job: Job, settings: LimitSettings) -> None:
    """Refuse a job that brings more along than it may. Raises Rejected, naming the field and the setting to raise."""
    if len(job.files) > settings.input_files:
        raise Rejected(
            f"files: {len(job.files)} given, at most {settings.input_files} allowed: raise the daemon's setting limits.input_files"
        )
    total = _size(job.code) + (len(job.stdin_bytes) if job.stdin_bytes is not None else _size(job.stdin))
    for i, file in enumerate(job.files):
        size = len(file.data) if file.data is not None else _size(file.text)
        total += size
        if size > settings.file_bytes:
            raise Rejected(
                f"files[{i}]: {size} bytes given, at most {settings.file_bytes} allowed: raise the daemon's setting limits.file_bytes"
            )
        if any(_size(part) > settings.filename_bytes for part in file.name.split("/")):
            raise Rejected(
                f"files[{i}].name: a part is longer than {settings.filename_bytes} bytes: raise the daemon's setting limits.filename_bytes"
            )
    if total > settings.input_bytes:
        raise Rejected(
            f"code, files and stdin: {total} bytes given, at most {settings.input_bytes} allowed: "
            "raise the daemon's setting limits.input_bytes"
        )


def _size(text: str | None) -> int:
    if not text:
        return 0
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def _plain(number: float) -> str:
    return f"{number:.15g}" if isinstance(number, float) else str(number)


def lasting(limits: Limits) -> str:
    """The limits that a sandbox can't change once it has served a job, to be compared."""
    return f"{limits.memory_bytes} {limits.processes} {limits.open_files} {limits.file_bytes}"
