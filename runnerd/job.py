"""Job, Event and Result: plain data, the same on every bus and over HTTP.

JSON and MessagePack carry the same structs. Unknown fields are ignored on input, so that an older
daemon takes a newer client's job. Where bytes are not text, `text` fields hold the text with U+FFFD in
place of what can't be decoded, and the `…bytes`/`data` field beside it holds the exact bytes (base64 in JSON).
"""

import os
import re
import time
from typing import Annotated, Literal, get_args

from msgspec import Meta, Struct

VERSION = 1
"""Version of Job, Event and Result. A daemon refuses versions above its own."""

Status = Literal["ok", "failed", "timeout", "oom", "limit", "rejected", "cancelled", "expired", "dead"]
"""How a job ended: `ok` exit 0 · `failed` other exit, signal or compile error · `timeout` wall time used up ·
`oom` memory used up, whatever the exit · `limit` another limit, named in `Result.limit` · `rejected` never runnable as it is ·
`cancelled` by its submitter · `expired` waited too long · `dead` runnerd could not run it."""

Reuse = Literal["job", "session", "tenant"]
"""What a sandbox serves: one job · the jobs of one session, which find files and interpreter as the last one left them ·
the jobs of one tenant, each in a place of its own in there."""

RetryOn = Literal["timeout", "oom"]
"""Statuses with which a job may ask to be started again."""

STATUSES: tuple[str, ...] = get_args(Status)
RETRY_ON: tuple[RetryOn, ...] = get_args(RetryOn)
TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What tenants, job ids and language codes are made of: safe in subjects, routing keys and file names."""

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


class Mount(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A stored file that a job finds below /mnt/data."""

    session: str
    """The session that it is in."""
    id: str
    """The file's own id, see `Stored`."""
    name: str = ""
    """Path below /mnt/data; empty for the file's own name."""


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
    interactive: bool = False
    """Standard input stays open after `stdin`: more of it is sent while the job runs, until its end is. `retry` counts as off."""
    tools: tuple[str, ...] = ()
    """What it may call while it runs, answered by whoever submitted it: see `ToolCall`. `retry` counts as off."""
    env: dict[str, str] = {}
    limits: Limits = Limits()
    stream: bool = False
    """Send output while the job runs, besides the result's copy."""
    retry: bool = True
    """Start the job again when its sandbox was lost. False: started once at most."""
    retry_on: tuple[RetryOn, ...] = ()
    """Start the job again when it ended so, as often as when its sandbox was lost: what its last start came to is its result.
    Refused where it is never started again: with `retry` off, `interactive`, or `tools`."""
    session: str | None = None
    """The session that it works in: its files are in /mnt/data, its state is loaded, and what the job leaves is stored there.
    Empty to start a new one, None for none."""
    entity: str = ""
    """What the session belongs to beside its tenant, an assistant say: sessions of one entity read each other's files."""
    user: str = ""
    """For whom the tenant runs it."""
    mounts: tuple[Mount, ...] = ()
    """Stored files of the tenant that it finds in /mnt/data besides those of its session."""
    state: bool = True
    """Whether variables of the session's earlier jobs are there, and those of this one are kept."""
    queue_ttl_s: Positive | None = None
    """Give up (`expired`) when no sandbox was free for so long."""

    @property
    def again(self) -> bool:
        """Whether it may be started again. What was sent to an interactive job, or answered, is lost with it."""
        return self.retry and not self.interactive and not self.tools

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
    reuse: Reuse = "job"
    """Whose jobs the sandbox serves: this one, those of its session, or those of its tenant."""
    served: int = 0
    """How many jobs it had served before this one."""


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


class Stored(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file in a session: one version of it, which never changes."""

    id: str
    """21 characters of `[A-Za-z0-9_-]`."""
    session: str
    name: str
    """Path below /mnt/data."""
    size: int
    """In bytes."""
    content_type: str
    sha256: str
    """Of the content, in hex."""
    created: float
    """Seconds since 1970."""
    modified_from: str = ""
    """The id of the version that the job found under this name, where it changed a file."""


class StateInfo(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of the interpreter's variables."""

    restored: bool = False
    """Whether those of an earlier job were loaded."""
    size: int = 0
    """Bytes of the snapshot that the session now has, 0 for none."""
    hash: str = ""
    """Of that snapshot, opaque."""
    skipped: tuple[Skipped, ...] = ()
    """Variables that could not be kept, by name."""
    problem: str = ""
    """Why the snapshot was not loaded, or none was kept, for people."""


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


class ToolCall(Struct, frozen=True, kw_only=True, tag="tool_call"):
    """The job calls a tool, and waits for an answer. It comes also to who did not ask for output, where the job names `tools`."""

    id: str
    tenant: str
    call: str
    """What to answer it by. Who joins later hears it again while it waits."""
    name: str
    """One of the job's `tools`."""
    arguments: str
    """A JSON object, as the program wrote it."""


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
    session: str = ""
    """The session that it worked in."""
    stored: tuple[Stored, ...] = ()
    """Files that it left in its session, instead of `files`."""
    state: StateInfo | None = None
    warnings: tuple[str, ...] = ()
    """What else the submitter should know, for people: a session that had expired, say."""
    usage: Usage = Usage()
    sandbox: SandboxInfo | None = None
    starts: int = 0
    """How often the job was started."""


Event = Started | Output | ToolCall | Result


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
