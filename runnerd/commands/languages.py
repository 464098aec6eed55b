"""`runnerd languages`: which languages there are, and what this machine has of each."""

from typing import TYPE_CHECKING, Annotated

import typer
from msgspec import Struct

from .options import ConfigFile, Json, Set

if TYPE_CHECKING:
    from ..config import Settings
    from ..spec import Language
    from ..toolchains import Toolchain


class Row(Struct, frozen=True, kw_only=True):
    """One language, as it is shown."""

    code: str
    name: str
    aliases: tuple[str, ...]
    suffixes: tuple[str, ...]
    version: str
    """Of the tool chain on this machine, empty where it is missing."""
    problem: str
    """What is missing here, empty where nothing is."""
    install: str
    """The command, for a shell, that installs what is missing."""
    warm: int
    """Sandboxes kept warm."""
    reuse: str
    """What one of its sandboxes serves: a job, a session or a tenant."""
    image: str
    """Image of its pods."""


def languages(
    *,
    file: ConfigFile = "",
    flags: Set = None,
    missing: Annotated[bool, typer.Option("--missing", help="Show only what this machine lacks.")] = False,
    json: Json = False,
) -> None:
    """List the languages, with the version of each tool chain here or the command that installs it.

    Examples:

      runnerd languages

      runnerd languages --missing --json | jq -r '.[].install'
    """
    import asyncio

    import msgspec

    from ..config import load_config
    from ..daemon import effective_languages
    from ..plugins import find_plugins
    from ..toolchains import Toolchains

    plugins = find_plugins()
    settings = load_config(plugins, file=file, flags=flags or ()).settings
    known = effective_languages(settings, plugins)
    found = asyncio.run(Toolchains().probe(known.values()))
    rows = [_row(language, found[code], settings) for code, language in known.items()]
    rows = [row for row in rows if row.problem or not missing]
    if json:
        typer.echo(msgspec.json.format(msgspec.json.encode(rows), indent=2))
    else:
        _print(rows)


def _row(language: "Language", found: "Toolchain", settings: "Settings") -> Row:
    return Row(
        code=language.code,
        name=language.name,
        aliases=language.aliases,
        suffixes=language.suffixes,
        version=found.version,
        problem=found.problem,
        install=found.install,
        warm=settings.pool.target(language),
        reuse=language.reuse,
        image=language.image,
    )


def _print(rows: list[Row]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table("code", "name", "aliases", "version here", "warm", "reuse", "image", box=None, header_style="bold")
    for row in rows:
        version = Text(row.version) if row.version else Text("missing", "red")
        table.add_row(row.code, row.name, " ".join(row.aliases), version, str(row.warm), row.reuse, row.image)
    console.print(table)
    for row in rows:
        if row.problem:
            console.print(Text(f"\n{row.name}: {row.problem}", "red"), soft_wrap=True)
            console.print(Text(f"  {row.install or 'its plugin says no way to install it'}"), soft_wrap=True)
