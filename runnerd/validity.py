"""What no daemon could run, refused with the field and the fix. Plain code, no I/O."""

import math

import msgspec

from .errors import Rejected
from .job import TOKEN, VERSION, Job

_LONGEST_NAME = 256
"""Characters of what a tenant calls its users, entities and tools."""
_MOST_TOOLS = 1000


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
    _check_session(job)
    _check_tools(job.tools)
    check_retry_on(job)
    if job.queue_ttl_s is not None and not math.isfinite(job.queue_ttl_s):
        raise Rejected("queue_ttl_s: must be a finite number above 0")


def check_retry_on(job: Job) -> None:
    """Refuse `retry_on` where the job is never started again. Raises Rejected, naming both fields."""
    if job.retry_on and not job.again:
        why = "retry is off" if not job.retry else "it is interactive" if job.interactive else "it names tools"
        raise Rejected(f"retry_on: the job is started once at most, as {why}: leave out one of the two")


def _check_session(job: Job) -> None:
    for field, value in (("session", job.session or ""), ("entity", job.entity), ("user", job.user)):
        if len(value) > _LONGEST_NAME or not value.isprintable():
            raise Rejected(f"{field}: {value[:80]!r} must be printable and at most {_LONGEST_NAME} characters long")
    for i, mount in enumerate(job.mounts):
        if mount.name:
            check_name(mount.name, f"mounts[{i}].name")


def _check_tools(tools: tuple[str, ...]) -> None:
    if len(tools) > _MOST_TOOLS:
        raise Rejected(f"tools: {len(tools)} given, at most {_MOST_TOOLS} allowed")
    for i, name in enumerate(tools):
        if not name or len(name) > _LONGEST_NAME or not name.isprintable():
            raise Rejected(f"tools[{i}]: {name[:80]!r} must be printable, not empty and at most {_LONGEST_NAME} characters long")
    if len(set(tools)) != len(tools):
        raise Rejected("tools: each may be named once")


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
