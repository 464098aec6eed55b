"""Options that several commands have."""

from typing import Annotated

import typer

ConfigFile = Annotated[
    str, typer.Option("--config", "-c", metavar="FILE", help="Read this file instead of ./runnerd.toml.", show_default=False)
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="TABLE.FIELD=VALUE", help="Set one setting; beats all other sources. May be given again."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
