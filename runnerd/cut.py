"""Cuts a result or a piece of output to what fits into one message. Plain code, no I/O."""

from collections.abc import Callable

from msgspec.structs import replace

from .job import File, Output, Result, Skipped, Stage

Encode = Callable[[Result | Output | File], bytes]

_SKIPPED = 100
"""Names of skipped files that a cut result still tells."""
_REASON = 1000
"""Characters of its reason."""


def cut_result(result: Result, encode: Encode, most: int) -> tuple[bytes, bool]:
    """`result` in at most `most` bytes, and whether anything had to be left out.

    Files go first, the largest before the others, then output from its end. What was left out is told: as skipped
    files and by the truncation flags. A result without any of these always fits into the smallest message of a bus.
    """
    body = encode(result)
    if len(body) <= most:
        return body, False
    result, body = _without_files(result, body, encode, most)
    keep = most // 4
    while len(body) > most and keep > 64:
        body = encode(_shortened(result, keep))
        keep //= 2
    if len(body) > most:
        body = encode(replace(_shortened(result, 0), skipped=(), reason=result.reason[:_REASON]))
    return body, True


def without_output(result: Result) -> Result:
    """`result` without what its program and its compiler wrote; the truncation flags say where there was something."""
    stages = (result, result.compile or Stage())
    return replace(
        result,
        stdout="",
        stdout_bytes=None,
        stdout_truncated=result.stdout_truncated or any(stage.stdout or stage.stdout_bytes for stage in stages),
        stderr="",
        stderr_bytes=None,
        stderr_truncated=result.stderr_truncated or any(stage.stderr or stage.stderr_bytes for stage in stages),
        compile=result.compile and replace(result.compile, stdout="", stdout_bytes=None, stderr="", stderr_bytes=None),
    )


def cut_output(output: Output, encode: Encode, most: int) -> bytes | None:
    """A piece of output in at most `most` bytes; None where it can't be had. Text that escapes badly is sent as data."""
    body = encode(output)
    if len(body) > most:
        body = encode(replace(output, text="", data=output.content))
    return body if len(body) <= most else None


def _without_files(result: Result, body: bytes, encode: Encode, most: int) -> tuple[Result, bytes]:
    """Leave out the largest files until the rest fits, or none is left."""
    files = sorted((len(encode(file)), file.name) for file in result.files)
    reason = f"the result is larger than a message of this bus ({most} bytes)"
    skipped = list(result.skipped)
    excess = len(body) - most
    while files and excess > 0:
        while files and excess > 0:
            size, name = files.pop()
            excess -= size
            skipped.append(Skipped(name=name, reason=reason))
        kept = {name for _, name in files}
        result = replace(result, files=tuple(file for file in result.files if file.name in kept), skipped=_told(skipped))
        body = encode(result)
        excess = len(body) - most
    return replace(result, skipped=_told(skipped)), body


def _told(skipped: list[Skipped]) -> tuple[Skipped, ...]:
    if len(skipped) <= _SKIPPED:
        return tuple(skipped)
    more = Skipped(name="…", reason=f"{len(skipped) - _SKIPPED} more files were skipped")
    return (*skipped[:_SKIPPED], more)


def _shortened(result: Result, keep: int) -> Result:
    """`result` with at most `keep` bytes of each output."""
    stdout, stdout_bytes, stdout_cut = _head(result.stdout, result.stdout_bytes, keep)
    stderr, stderr_bytes, stderr_cut = _head(result.stderr, result.stderr_bytes, keep)
    return replace(
        result,
        stdout=stdout,
        stdout_bytes=stdout_bytes,
        stdout_truncated=result.stdout_truncated or stdout_cut,
        stderr=stderr,
        stderr_bytes=stderr_bytes,
        stderr_truncated=result.stderr_truncated or stderr_cut,
        compile=_shortened_stage(result.compile, keep),
    )


def _shortened_stage(stage: Stage | None, keep: int) -> Stage | None:
    if stage is None:
        return None
    stdout, stdout_bytes, _ = _head(stage.stdout, stage.stdout_bytes, keep)
    stderr, stderr_bytes, _ = _head(stage.stderr, stage.stderr_bytes, keep)
    return replace(stage, stdout=stdout, stdout_bytes=stdout_bytes, stderr=stderr, stderr_bytes=stderr_bytes)


def _head(text: str, data: bytes | None, keep: int) -> tuple[str, bytes | None, bool]:
    """The first `keep` bytes of an output, as text and as bytes, and whether that is not all of it."""
    whole = data if data is not None else text.encode()
    if len(whole) <= keep:
        return text, data, False
    head = whole[:keep]
    if data is None:
        return head.decode(errors="ignore"), None, True
    return head.decode(errors="replace"), head, True
