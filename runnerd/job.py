"""Job, Event and Result: plain data, the same on every bus and over HTTP.

JSON and MessagePack carry the same structs. Unknown fields are ignored on input, so that an older
daemon takes a newer client's job. Where bytes are not text, `text` fields hold the text with U+FFFD in
place of what can't be decoded, and the `…bytes`/`data` field beside it holds the exact bytes (base64 in JSON).
"""

import math
import os
import re
import time
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta, Struct

from .errors import Rejected

VERSION = 1
"""Version of Job, Event and Result. A daemon refuses versions above its own."""

Status = Literal["ok", "failed", "timeout", "oom", "limit", "rejected", "cancelled", "expired", "dead"]
"""How a job ended: `ok` exit 0 · `failed` other exit, signal or compile error · `timeout` wall time used up ·
`oom` memory used up, whatever the exit · `limit` another limit, named in `Result.limit` · `rejected` never runnable as it is ·
`cancelled` by its submitter · `expired` waited too long · `dead` runnerd could not run it."""

STATUSES: tuple[str, ...] = get_args(Status)
TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What tenants, job ids and language codes are made of: safe in subjects, routing keys and file names."""

JSON = "application/json"
MSGPACK = "application/msgpack"

Positive = Annotated[float, Meta(gt=0)]
PositiveInt = Annotated[int, Meta(gt=0)]


class Limits(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Limits of one job. None takes the daemon's default; none may exceed what the daemon allows."""

    wall_s: Positive | None = None
    """Wall time of each stage, in seconds, on the monotonic clock."""
    cpu_s: Positive | None = None
    """CPU time of each process, in seconds."""
    memory_bytes: PositiveInt | None = None
    """Memory of all processes and of all files in the sandbox together."""
    processes: PositiveInt | None = None
    """Processes and threads at once."""
    open_files: PositiveInt | None = None
    """Open files of each process."""
    output_bytes: PositiveInt | None = None
    """Bytes kept of standard output, and as many of standard error."""
    file_bytes: PositiveInt | None = None
    """Size of any one file that the job writes."""
    files: PositiveInt | None = None
    """Number of files that are returned."""


class File(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file beside the job's code, or one that the job wrote. Its content is `text` or `data`."""

    name: str
    """Path below /mnt/data, with `/` between its parts."""
    text: str | None = None
    data: bytes | None = None

    @property
    def content(self) -> bytes:
        """The file's bytes."""
        if self.data is not None:
            return self.data
        return (self.text or "").encode()


class Job(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One program to run, with its input and its limits."""

    v: int = VERSION
    id: str = ""
    """The caller's idempotency key, `[A-Za-z0-9_-]{1,64}`; the daemon makes one where it is empty."""
    tenant: str = ""
    """Whose job it is. A bus takes it from the subject; a body that says otherwise is rejected."""
    lang: str = ""
    """Language code or alias. A bus takes it from the subject; a body that says otherwise is rejected."""
    code: str | None = None
    """The program, saved under the language's own file name. Or None: see `entry`."""
    files: tuple[File, ...] = ()
    entry: str | None = None
    """Which of `files` is the program, where `code` is None and there is more than one file."""
    args: tuple[str, ...] = ()
    stdin: str = ""
    stdin_bytes: bytes | None = None
    env: dict[str, str] = {}
    limits: Limits = Limits()
    stream: bool = False
    """Send output while the job runs, besides the result's copy."""
    retry: bool = True
    """Start the job again when its sandbox was lost. False: started once at most."""
    queue_ttl_s: Positive | None = None
    """Give up (`expired`) when no sandbox was free for so long."""

    @property
    def input(self) -> bytes:
        """Standard input as bytes."""
        return self.stdin_bytes if self.stdin_bytes is not None else self.stdin.encode()


class Usage(Struct, frozen=True, kw_only=True):
    """What a job cost. Times in milliseconds."""

    queued_ms: float = 0.0
    """From its arrival until it had a sandbox."""
    prepared_ms: float = 0.0
    """From then until its first stage started."""
    ran_ms: float = 0.0
    """Of all its stages."""
    cpu_ms: float = 0.0
    memory_bytes: int = 0
    """Peak of all its processes together, or of its largest process where that can't be had."""


class SandboxInfo(Struct, frozen=True, kw_only=True):
    """Where a job ran, and how far it was isolated there."""

    executor: str
    level: str
    warm: bool
    """Whether the sandbox stood ready before the job came."""
    enforced: tuple[str, ...] = ()
    """Limits that the sandbox enforces."""
    missing: tuple[str, ...] = ()
    """Limits that it can't enforce here."""


class Stage(Struct, frozen=True, kw_only=True):
    """How the compile stage ended."""

    exit_code: int | None = None
    signal: int | None = None
    stdout: str = ""
    stdout_bytes: bytes | None = None
    stderr: str = ""
    stderr_bytes: bytes | None = None
    ran_ms: float = 0.0


class Skipped(Struct, frozen=True, kw_only=True):
    """A file that the job wrote and that is not returned."""

    name: str
    reason: str


class Started(Struct, frozen=True, kw_only=True, tag="started"):
    """The job has its sandbox and starts a stage. A second start of a job begins its output anew."""

    id: str
    stage: Literal["compile", "run"]
    start: int = 1
    """Which of the job's starts this is, from 1."""


class Output(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="output"):
    """A piece of output, as written. `seq` counts from 1 per stream and start."""

    id: str
    stream: Literal["stdout", "stderr"]
    seq: int
    text: str = ""
    data: bytes | None = None
    stage: Literal["compile", "run"] = "run"

    @property
    def content(self) -> bytes:
        """The piece's bytes."""
        return self.data if self.data is not None else self.text.encode()


class Result(Struct, frozen=True, kw_only=True, tag="result"):
    """How one job ended. There is exactly one per job."""

    v: int = VERSION
    id: str = ""
    tenant: str = ""
    lang: str = ""
    status: Status
    reason: str = ""
    """Why, for people. Never the program's words: empty for `ok` and for a plain exit code."""
    limit: str | None = None
    """Which of `Limits` was reached, for status `limit`, `timeout` and `oom`."""
    stage: Literal["compile", "run"] | None = None
    """The stage in which it ended, None where none was started."""
    exit_code: int | None = None
    signal: int | None = None
    """The signal that ended the program, None where it exited."""
    stdout: str = ""
    stdout_bytes: bytes | None = None
    stdout_truncated: bool = False
    stderr: str = ""
    stderr_bytes: bytes | None = None
    stderr_truncated: bool = False
    compile: Stage | None = None
    files: tuple[File, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    usage: Usage = Usage()
    sandbox: SandboxInfo | None = None
    starts: int = 0
    """How often the job was started."""


Event = Started | Output | Result


def text_of(data: bytes) -> tuple[str, bytes | None]:
    """Split bytes into a text field and the exact bytes, the latter only where the text can't say them."""
    try:
        return data.decode(), None
    except UnicodeDecodeError:
        return data.decode(errors="replace"), data


def new_id() -> str:
    """A job id: UUID version 7 (RFC 9562) without its dashes, so ids sort by time."""
    ms = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    high, low = random >> 68, random & ((1 << 62) - 1)
    return f"{(ms << 80) | (7 << 76) | (high << 64) | (2 << 62) | low:032x}"


_decoders: dict[str, Any] = {
    JSON: msgspec.json.Decoder(Job),
    MSGPACK: msgspec.msgpack.Decoder(Job),
}
_encoders: dict[str, Any] = {JSON: msgspec.json.Encoder(), MSGPACK: msgspec.msgpack.Encoder()}


def media_type(content_type: str) -> str:
    """The body type that `content_type` names, without parameters. Empty means JSON.

    Raises Rejected for any other than JSON and MessagePack.
    """
    media = content_type.partition(";")[0].strip().lower() or JSON
    if media == "application/x-msgpack":
        media = MSGPACK
    if media not in _encoders:
        raise Rejected(f"content type {media!r} is not known: use {JSON} or {MSGPACK}")
    return media


def decode_job(body: bytes, content_type: str = JSON) -> Job:
    """Read a job and check all that can be checked without knowing the daemon's languages and limits.

    Raises Rejected, naming the field and the fix.
    """
    media = media_type(content_type)
    try:
        job: Job = _decoders[media].decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Rejected(f"not a job in {media}: {error}") from None
    check_job(job)
    return job


def encode(message: Event | Job, content_type: str = JSON) -> bytes:
    """Write an event, a result or a job."""
    encoded: bytes = _encoders[media_type(content_type)].encode(message)
    return encoded


def decode_result(body: bytes, content_type: str = JSON) -> Result:
    """Read a result. Raises msgspec.DecodeError."""
    if media_type(content_type) == MSGPACK:
        return msgspec.msgpack.decode(body, type=Result)
    return msgspec.json.decode(body, type=Result)


def decode_event(body: bytes, content_type: str = JSON) -> Event:
    """Read any event, the result among them. Raises msgspec.DecodeError."""
    decode = msgspec.msgpack.decode if media_type(content_type) == MSGPACK else msgspec.json.decode
    event: Event = decode(body, type=Event)
    return event


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of Job, Started, Output and Result."""
    refs, components = msgspec.json.schema_components([Job, Started, Output, Result], ref_template="#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"runnerd messages, version {VERSION}",
        "anyOf": list(refs),
        "$defs": components,
    }


def check_job(job: Job) -> None:
    """Refuse what no daemon could run. Raises Rejected, naming the field and the fix."""
    if job.v > VERSION or job.v < 1:
        raise Rejected(f"v: {job.v} is not known here: this daemon speaks version {VERSION}")
    for field, token in (("id", job.id), ("tenant", job.tenant)):
        if token and not TOKEN.fullmatch(token):
            raise Rejected(f"{field}: {token[:80]!r} must match [A-Za-z0-9_-]{{1,64}}")
    _check_program(job)
    for i, arg in enumerate(job.args):
        if "\0" in arg:
            raise Rejected(f"args[{i}]: a NUL character can't be passed to a program")
    for name, value in job.env.items():
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise Rejected(f"env: {name[:80]!r} is no name for an environment variable: no =, no NUL, not empty")
    for field, limit in msgspec.structs.asdict(job.limits).items():
        if limit is not None and not math.isfinite(limit):
            raise Rejected(f"limits.{field}: must be a finite number above 0")
    if job.queue_ttl_s is not None and not math.isfinite(job.queue_ttl_s):
        raise Rejected("queue_ttl_s: must be a finite number above 0")


def _check_program(job: Job) -> None:
    names = [check_name(file.name, f"files[{i}].name") for i, file in enumerate(job.files)]
    taken = set(names)
    if len(taken) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise Rejected(f"files: {twice[:80]!r} is there twice: give each file a name of its own")
    for name in names:
        parts = name.split("/")
        for depth in range(1, len(parts)):
            if "/".join(parts[:depth]) in taken:
                raise Rejected(f"files: {name[:80]!r} lies below another file of the job")
    for i, file in enumerate(job.files):
        if file.text is not None and file.data is not None:
            raise Rejected(f"files[{i}]: has both text and data: give one")
    if job.code is not None and job.entry is not None:
        raise Rejected("entry: only where code is left out: code is the program")
    if job.code is None:
        if not job.files:
            raise Rejected("code: missing: give code, or files with the program among them")
        if job.entry is None and len(job.files) > 1:
            raise Rejected("entry: missing: name the file that is the program")
        if job.entry is not None and job.entry not in names:
            raise Rejected(f"entry: {job.entry[:80]!r} is none of files")


def check_name(name: str, field: str, longest: int = 255) -> str:
    """Return `name` where it is a path that stays below its directory. Raises Rejected, naming `field`.

    Each part is 1 to `longest` bytes of UTF-8 without NUL, newline and other control characters; parts are joined by `/`.
    """
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        raise Rejected(f"{field}: not valid Unicode") from None
    if len(encoded) > 4000:
        raise Rejected(f"{field}: longer than 4000 bytes")
    for part in name.split("/"):
        if part in ("", ".", ".."):
            raise Rejected(f"{field}: {name[:80]!r} must be a relative path without empty, . or .. parts")
        if len(part.encode()) > longest:
            raise Rejected(f"{field}: a part of {name[:80]!r} is longer than {longest} bytes")
        if any(ord(c) < 32 or ord(c) == 127 for c in part):
            raise Rejected(f"{field}: {name[:80]!r} has control characters")
    return name
