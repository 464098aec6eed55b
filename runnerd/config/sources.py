"""Reads what people wrote, each value with its place: runnerd.toml, .env, the environment, flags.

Nothing is checked here but the writing itself; what the values mean, `tables` decides.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

TOML, DOTENV, ENVIRONMENT, FLAG = range(4)
"""Ranks of the sources, lowest first."""

Path_ = tuple[str, ...]
"""A setting's name in parts: `("limits", "wall_s")`."""


class Given(Struct, frozen=True, kw_only=True):
    """A value as it was written, with its place for error reports."""

    value: Any
    place: str
    """`runnerd.toml:12`, `.env:3: API_PORT`, `variable API_PORT` or `--set limits.wall_s`."""
    rank: int
    """Which source it is from; the highest wins."""
    variable: str = ""


class Table(Struct, kw_only=True):
    """A table as it was written, or as variables and flags add up to it."""

    place: str
    entries: dict[str, "Table | Given"] = {}

    def put(self, path: Path_, given: Given) -> None:
        """Add a value; it replaces one of a lower or equal rank, and tables on its way come about."""
        table = self
        for part in path[:-1]:
            below = table.entries.get(part)
            if not isinstance(below, Table):
                below = table.entries[part] = Table(place=given.place)
            table = below
        table.entries[path[-1]] = given

    def plain(self) -> dict[str, Any]:
        """The values alone."""
        return {key: below.plain() if isinstance(below, Table) else below.value for key, below in self.entries.items()}


class Assigned(Struct, frozen=True, kw_only=True):
    """A variable, in `.env` or the environment, with its place."""

    name: str
    text: str
    place: str
    rank: int


def read_toml(path: Path, shown: str, problems: list[str]) -> Table:
    """A TOML file; lists are values."""
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        problems.append(f"{shown}: can't be read: {reason}")
        return Table(place=shown)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"\(at line (\d+)", str(error))
        problems.append(f"{shown}{':' + line[1] if line else ''}: not TOML: {error}")
        return Table(place=shown)
    return _table(document, (), shown, _lines(text))


def read_dotenv(path: Path, shown: str, problems: list[str]) -> list[Assigned]:
    """Every assignment of a `.env` file; nothing where there is no such file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        problems.append(f"{shown}: can't be read: {reason}")
        return []
    assigned = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _ASSIGNMENT.fullmatch(line)
        if match is None:
            problems.append(f"{shown}:{number}: not understood: write NAME=value")
            continue
        name, value = match["name"], match["value"]
        assigned.append(Assigned(name=name, text=_unquoted(value), place=f"{shown}:{number}: {name}", rank=DOTENV))
    return assigned


def read_environment(environ: Mapping[str, str]) -> list[Assigned]:
    """Every variable of the environment."""
    return [
        Assigned(name=name, text=text, place=f"variable {name}", rank=ENVIRONMENT) for name, text in sorted(environ.items())
    ]  # fmt: skip


def read_flags(flags: Sequence[str], problems: list[str]) -> list[tuple[Path_, Given]]:
    """Every `table.field=value` that was given with --set."""
    given = []
    for flag in flags:
        name, equals, text = flag.partition("=")
        if not equals:
            problems.append(f"--set {flag}: write --set table.field=value")
            continue
        path = tuple(part.strip() for part in name.split("."))
        given.append((path, Given(value=text, place=f"--set {name.strip()}", rank=FLAG)))
    return given


_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)\s*=\s*(?P<value>.*?)\s*")
_QUOTED = re.compile(r"""(?P<quote>["'])(?P<text>.*)(?P=quote)\s*(?:#.*)?""")


def _unquoted(value: str) -> str:
    quoted = _QUOTED.fullmatch(value)
    if quoted is not None:
        return quoted["text"]
    return re.sub(r"(^|\s+)#.*", "", value)


def _table(document: dict[str, Any], path: Path_, shown: str, lines: Mapping[Path_, int]) -> Table:
    table = Table(place=f"{shown}:{_line(lines, path)}")
    for key, value in document.items():
        below = (*path, key)
        if isinstance(value, dict):
            table.entries[key] = _table(value, below, shown, lines)
        else:
            table.entries[key] = Given(value=value, place=f"{shown}:{_line(lines, below)}", rank=TOML)
    return table


def _line(lines: Mapping[Path_, int], path: Path_) -> int:
    """The line of a key, or of the nearest table around it."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


def _lines(text: str) -> dict[Path_, int]:
    """The line of each key and table header. `text` is valid TOML.

    The file is cut into its statements, by giving the parser more and more lines until it is content.
    """
    lines: dict[Path_, int] = {}
    table: Path_ = ()
    chunk, start = "", 1
    for number, line in enumerate(text.splitlines(), 1):
        chunk, start = (chunk + "\n" + line, start) if chunk else (line, number)
        try:
            document = tomllib.loads(chunk)
        except tomllib.TOMLDecodeError:
            continue
        if chunk.lstrip().startswith("["):
            table = _header(document)
            for depth in range(len(table)):
                lines.setdefault(table[: depth + 1], start)
        else:
            for path in _paths(document, table):
                lines.setdefault(path, start)
        chunk = ""
    return lines


def _header(document: dict[str, Any]) -> Path_:
    path: Path_ = ()
    below: Any = document
    while below and isinstance(below, dict):
        key = next(iter(below))
        path, below = (*path, key), below[key]
    return path


def _paths(document: dict[str, Any], table: Path_) -> Iterator[Path_]:
    for key, value in document.items():
        yield (*table, key)
        if isinstance(value, dict):
            yield from _paths(value, (*table, key))
