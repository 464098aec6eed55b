"""What `runnerd run` and `submit` are to run: the files and options of the command line, as a Job."""

import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..errors import RunnerdError
from ..job import File, Job, Limits, new_id
from ..plugins import Plugins
from ..validity import check_name

MOST_BYTES = 64 << 20
"""Most of a file that is read; no message of a bus takes more."""
DEFAULT = "py"
"""Language of a program on standard input that doesn't say otherwise."""

_BYTES = re.compile(r"(\d{1,15})([KMG]?)(?:iB|B)?", re.IGNORECASE)
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30}
_SHEBANG = re.compile(r"#!\s*(?:\S*/env\s+(?:-\S+\s+)*)?(?:\S*/)?([A-Za-z+]+)")


def read_job(
    program: str,
    args: Sequence[str],
    *,
    plugins: Plugins,
    lang: str = "",
    stdin: str = "",
    inputs: Iterable[str] = (),
    env: Iterable[str] = (),
    limits: Iterable[str] = (),
    timeout_s: float | None = None,
    queue_ttl_s: float | None = None,
    job_id: str = "",
    tenant: str = "",
    interactive: bool = False,
) -> Job:
    """The job, with an id. Raises RunnerdError, naming the file or option and the fix."""
    if program == "-" and stdin == "-":
        raise RunnerdError("--stdin -: the program itself comes from standard input: give one of them a file")
    if interactive and "-" in (program, stdin):
        raise RunnerdError("--interactive: standard input is for the program: give what else comes from it a file")
    code = _text(_read(program), program)
    return Job(
        id=job_id or new_id(),
        tenant=tenant,
        lang=lang or language_of(program, code, plugins),
        code=code,
        files=tuple(_input(given) for given in inputs),
        args=tuple(args),
        stdin_bytes=_read(stdin) if stdin else None,
        env=dict(map(_variable, env)),
        limits=_limits(limits, timeout_s),
        queue_ttl_s=queue_ttl_s,
        interactive=interactive,
    )


def language_of(program: str, code: str, plugins: Plugins) -> str:
    """The language by the suffix, or by the program's #! line; standard input without one is Python. Raises RunnerdError."""
    suffixes = {suffix.lower(): language.code for language in plugins.languages.values() for suffix in language.suffixes}
    name = Path(program).name.lower()
    matching = [suffix for suffix in suffixes if name.endswith(suffix)]
    if matching:
        return suffixes[max(matching, key=len)]
    shebang = _SHEBANG.match(code)
    if shebang is not None:
        interpreter = shebang[1].lower()
        found = interpreter if interpreter in plugins.languages else plugins.aliases.get(interpreter)
        if found is not None:
            return found
    if program == "-":
        return DEFAULT
    known = ", ".join(f"{suffix} ({code})" for suffix, code in sorted(suffixes.items()))
    raise RunnerdError(f"{program}: no language has this suffix: name one with --lang, or use one of {known}")


def _input(given: str) -> File:
    """A file beside the program, from NAME=PATH, or from PATH under its own name."""
    name, equals, path = given.partition("=")
    if not equals:
        name, path = Path(given).name, given
    return File(name=check_name(name, f"--file {given}"), data=_read(str(Path(path).expanduser())))


def _variable(given: str) -> tuple[str, str]:
    """A variable from NAME=VALUE, or from NAME as it is in our own environment."""
    name, equals, value = given.partition("=")
    if not equals and name not in os.environ:
        raise RunnerdError(f"--env {given}: is not set here: write {name}=VALUE")
    return name, value if equals else os.environ[name]


def _limits(given: Iterable[str], timeout_s: float | None) -> Limits:
    """Limits from NAME=VALUE each, under the names that they have in a job. Bytes may be written as 64K, 64M, 1G."""
    limits: dict[str, Any] = {} if timeout_s is None else {"wall_s": timeout_s}
    for each in given:
        name, _, text = each.partition("=")
        if name not in Limits.__struct_fields__:
            raise RunnerdError(f"--limit {each}: write NAME=VALUE, with one of the names {', '.join(Limits.__struct_fields__)}")
        if name in limits:
            twice = "--timeout says it too" if name == "wall_s" and timeout_s is not None else "is there twice"
            raise RunnerdError(f"--limit {each}: {twice}: give one of them")
        limits[name] = _number(text) if name.endswith("_bytes") else text
        try:
            msgspec.convert(limits, Limits, strict=False)
        except msgspec.ValidationError:
            numbers = "bytes, such as 1048576 or 64M" if name.endswith("_bytes") else "a number above 0"
            raise RunnerdError(f"--limit {each}: write {numbers}") from None
    return msgspec.convert(limits, Limits, strict=False)


def _number(text: str) -> str:
    """A number of bytes without its unit."""
    found = _BYTES.fullmatch(text)
    return str(int(found[1]) << _UNITS[found[2].upper()]) if found else text


def _read(path: str) -> bytes:
    try:
        if path == "-":
            content = sys.stdin.buffer.read(MOST_BYTES + 1)
        else:
            with Path(path).open("rb") as file:
                content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise RunnerdError(f"{path}: can't be read: {error.strerror}") from None
    if len(content) > MOST_BYTES:
        raise RunnerdError(f"{path}: has more than {MOST_BYTES >> 20} MiB, which no message of a bus takes")
    return content


def _text(content: bytes, path: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise RunnerdError(f"{path}: is not UTF-8 at byte {error.start}: programs are text") from None
