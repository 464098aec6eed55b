"""`POST /exec`: what is asked, as a Job; its Result, as the answer. Plain data and plain code; `app` does the rest.

Request and answer keep the field names of the source system, with our own beside them; whatever else a client
sends is ignored. The program's failures are answers; runnerd's own are errors of HTTP.
"""

import re
import shlex
import signal
from hashlib import sha256

import msgspec
from msgspec import Struct

from runnerd import Job, Limits, Mount, Rejected, Result, SandboxInfo, Skipped, StateInfo, Stored, Usage

SESSION_ID_LENGTH = 21
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_MISSING = re.compile(r"missing required field `(\w+)`")
_FIELD = re.compile(r"([A-Za-z_-]+(?:\[\d+\]|\.\w+)*): ")


class FileRef(Struct, kw_only=True):
    """A stored file."""

    id: str
    session_id: str | None = None
    storage_session_id: str | None = None
    """The same as `session_id`, by its newer name."""
    name: str = ""
    """Path below /mnt/data; empty for its own name."""

    @property
    def session(self) -> str:
        """The session that it is in."""
        return self.storage_session_id or self.session_id or ""


class Origin(Struct, kw_only=True):
    """The version of a file that a program changed."""

    id: str
    storage_session_id: str


class OutputFile(Struct, kw_only=True, omit_defaults=True):
    """A file that the program left."""

    id: str
    name: str
    """Path below /mnt/data."""
    session_id: str
    storage_session_id: str
    size: int
    contentType: str  # noqa: N815 - the clients' spelling
    modified_from: Origin | None = None
    """Where the program changed a file that was there: the version that it found."""


class ExecRequest(Struct, kw_only=True):
    """A program to run."""

    lang: str
    """Language code or alias, in any case."""
    code: str
    args: str | list[str | int | float | bool] | None = None
    """Arguments: a list, or one text that is split as a shell would."""
    stdin: str | None = None
    files: list[FileRef] | None = None
    """Stored files that the program finds in its directory."""
    user_id: str | None = None
    """For whom it runs; what the tenant says of its own users."""
    entity_id: str | None = None
    """What the session belongs to, an assistant say."""
    session_id: str | None = None
    """The session to go on with: its files and variables are there. Else that of the first of `files`, else a new one."""
    timeout: float | None = None
    """Wall time in milliseconds; the daemon's own limit holds as well."""


class ExecAnswer(Struct, kw_only=True):
    """How the program ended."""

    session_id: str
    stdout: str
    """Ends in a newline unless empty."""
    stderr: str
    """The program's own, then what runnerd has to say about its end, in lines of its own."""
    files: list[OutputFile]
    has_state: bool = False
    state_size: int | None = None
    state_hash: str | None = None
    job_id: str
    status: str
    """`ok`, `failed`, `timeout`, `oom` or `limit`."""
    reason: str
    limit: str | None
    stage: str | None
    exit_code: int | None
    signal: int | None
    stdout_truncated: bool
    stderr_truncated: bool
    usage: Usage
    sandbox: SandboxInfo | None
    skipped: list[Skipped] = []
    """Files and variables that were not kept, and why."""
    warnings: list[str] = []
    """What else the caller should know."""


class Problem(Struct, kw_only=True, omit_defaults=True):
    """Why a request has no answer."""

    error: str
    error_type: str
    field: str | None = None
    """Which part of the request is wrong."""
    job_id: str | None = None
    retry_after_seconds: int | None = None


_PROBLEMS = {
    "rejected": (400, "validation"),
    "cancelled": (409, "cancelled"),
    "dead": (502, "execution_failed"),
    "expired": (504, "timeout"),
}


class Malformed(Exception):
    """A body that is not what is described. `field` is its path, None for the whole."""

    def __init__(self, reason: str, field: str | None = None) -> None:
        super().__init__(reason)
        self.field = field


_decoder = msgspec.json.Decoder(ExecRequest)


def decode_request(body: bytes) -> ExecRequest:
    """Read a request. Raises Malformed."""
    try:
        return _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _malformed(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"the body is not JSON: {error}") from None


def _malformed(message: str) -> Malformed:
    """msgspec's message, with the field in front."""
    what, _, path = message.partition(" - at `$.")
    missing = _MISSING.search(what)
    if missing is not None and not path:
        return Malformed(f"{missing[1]}: missing", missing[1])
    field = path.rstrip("`")
    return Malformed(f"{field}: {what}", field) if field else Malformed(f"the body: {what}")


def job_of(request: ExecRequest, tenant: str, job_id: str) -> Job:
    """The job that is asked for. Raises Rejected, naming the field and the fix."""
    if not request.code:
        raise Rejected("code: is empty: send the program's text")
    if request.timeout is not None and request.timeout <= 0:
        raise Rejected("timeout: must be above 0, in milliseconds")
    refs = request.files or []
    return Job(
        id=job_id,
        tenant=tenant,
        lang=request.lang.strip().lower(),
        code=request.code,
        args=_args(request.args),
        stdin=request.stdin or "",
        limits=Limits(wall_s=request.timeout / 1000 if request.timeout else None),
        session=request.session_id or next((ref.session for ref in refs), ""),
        user=request.user_id or "",
        entity=request.entity_id or "",
        mounts=tuple(Mount(session=ref.session, id=ref.id, name=ref.name) for ref in refs),
    )


def answer_of(result: Result, refs: list[FileRef] | None = None) -> tuple[int, ExecAnswer | Problem]:
    """HTTP status and body that tell how the job ended. `refs`: the files that it was given."""
    if result.status in _PROBLEMS:
        status, error_type = _PROBLEMS[result.status]
        if result.reason.startswith("mounts["):  # what clients have to tell from a program that is wrong: they send the file again
            status, error_type = 403, "authorization"
        reason = result.reason or f"the job was {result.status}"
        return status, problem_of(reason, error_type, result.id)
    stdout, stderr = _outputs(result)
    session = result.session or session_id_of(result)
    sessions = {ref.id: ref.session for ref in refs or ()}
    state = result.state or StateInfo()
    return 200, ExecAnswer(
        session_id=session,
        stdout=_ended(stdout),
        stderr=_stderr(stderr, _notes(result, bool(stderr))),
        files=[_output(file, sessions) for file in result.stored],
        has_state=state.size > 0,
        state_size=state.size or None,
        state_hash=state.hash or None,
        job_id=result.id,
        status=result.status,
        reason=result.reason,
        limit=result.limit,
        stage=result.stage,
        exit_code=_exit_code(result),
        signal=result.signal,
        stdout_truncated=result.stdout_truncated,
        stderr_truncated=result.stderr_truncated,
        usage=result.usage,
        sandbox=result.sandbox,
        skipped=[*result.skipped, *state.skipped],
        warnings=[*result.warnings, *([state.problem] if state.problem else [])],
    )


def _output(file: Stored, sessions: dict[str, str]) -> OutputFile:
    origin = file.modified_from
    return OutputFile(
        id=file.id,
        name=file.name,
        session_id=file.session,
        storage_session_id=file.session,
        size=file.size,
        contentType=file.content_type,
        modified_from=Origin(id=origin, storage_session_id=sessions.get(origin, file.session)) if origin else None,
    )


def problem_of(reason: str, error_type: str, job_id: str = "") -> Problem:
    """A problem; its field is taken from a reason such as `code: missing`."""
    match = _FIELD.match(reason)
    return Problem(error=reason, error_type=error_type, field=match and match[1], job_id=job_id or None)


def session_id_of(result: Result) -> str:
    """A session id of the job's own, in the shape that clients insist on; the same whenever the job is asked for again."""
    number = int.from_bytes(sha256(f"{result.tenant}/{result.id}".encode()).digest(), "big")
    letters = []
    for _ in range(SESSION_ID_LENGTH):
        number, letter = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[letter])
    return "".join(letters)


def _args(args: str | list[str | int | float | bool] | None) -> tuple[str, ...]:
    if isinstance(args, str):
        try:
            return tuple(shlex.split(args))
        except ValueError as error:
            raise Rejected(f"args: can't be split into arguments ({error}): send a list") from None
    return tuple(arg if isinstance(arg, str) else _spelt(arg) for arg in args or ())


def _spelt(arg: float | bool) -> str:
    return str(arg).lower() if isinstance(arg, bool) else str(arg)


def _compile_failed(result: Result) -> bool:
    return result.stage == "compile" and result.compile is not None


def _outputs(result: Result) -> tuple[str, str]:
    """What to show as stdout and stderr: of a failed compilation all is stderr, since some compilers use stdout."""
    if result.compile is not None and _compile_failed(result):
        said = (result.compile.stdout, result.compile.stderr)
        return "", "".join(_ended(text) for text in said)
    return result.stdout, result.stderr


def _exit_code(result: Result) -> int | None:
    if result.exit_code is None and result.compile is not None and _compile_failed(result):
        return result.compile.exit_code
    return result.exit_code


def _notes(result: Result, program_spoke: bool) -> list[str]:
    """Lines about the program's end, for clients that show nothing but its output."""
    notes = [f"{stream} was cut off at its size limit" for stream in _truncated(result)]
    because = f": {result.reason}" if result.reason else ""
    if result.status == "timeout":
        notes.append(f"Time limit exceeded{because}")
    elif result.status == "oom":
        notes.append(f"Out of memory{because}")
    elif result.status == "limit":
        notes.append(f"Limit exceeded: {result.limit or 'unknown'}{because}")
    elif result.signal is not None:
        notes.append(f"Killed by signal {result.signal} ({_signal_name(result.signal)})")
    elif result.status == "failed" and not program_spoke:
        what = "Compilation" if _compile_failed(result) else "Code execution"
        notes.append(f"{what} failed with exit code {_exit_code(result)}")
    return notes


def _truncated(result: Result) -> list[str]:
    cut = (("stdout", result.stdout_truncated), ("stderr", result.stderr_truncated))
    return [stream for stream, truncated in cut if truncated]


def _stderr(stderr: str, notes: list[str]) -> str:
    return (_ended(stderr) if notes else stderr) + "".join(f"[runnerd] {note}\n" for note in notes)


def _ended(text: str) -> str:
    return text if not text or text.endswith("\n") else f"{text}\n"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
