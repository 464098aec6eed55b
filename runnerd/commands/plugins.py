"""`runnerd plugins`: what was found, and what is broken and why."""

from typing import TYPE_CHECKING, Annotated

import typer

from .options import Json

if TYPE_CHECKING:
    from ..plugins import Plugins


def plugins(
    *,
    json: Json = False,
    traceback: Annotated[bool, typer.Option("--traceback", "-t", help="Show where broken plugins failed.")] = False,
) -> None:
    """List the plugins, what each adds, and which are broken.

    Exits with 1 where one is broken.
    """
    from ..plugins import find_plugins

    found = find_plugins()
    if json:
        _print_json(found)
    else:
        _print(found, traceback=traceback)
    if found.broken:
        raise typer.Exit(1)


def _print_json(found: "Plugins") -> None:
    import msgspec

    document = msgspec.json.encode({"plugins": found.found, "broken": found.broken})
    typer.echo(msgspec.json.format(document, indent=2))


def _print(found: "Plugins", *, traceback: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table("plugin", "distribution", "adds", box=None, header_style="bold")
    for plugin in found.found:
        adds = [
            *(f"language {code}" for code in plugin.languages),
            *(f"store {kind}" for kind in plugin.stores),
            *(f"ingress {kind}" for kind in plugin.ingress),
        ]
        table.add_row(plugin.origin.name, f"{plugin.origin.distribution} {plugin.origin.version}", ", ".join(adds) or "nothing")
    for broken in found.broken:
        origin = broken.origin
        table.add_row(Text(origin.name, "red"), f"{origin.distribution} {origin.version}", Text(f"broken: {broken.reason}", "red"))
    console.print(table)
    for broken in found.broken if traceback else ():
        console.print(Text(f"\n{broken.origin}", "bold"))
        console.print(Text(broken.traceback.rstrip()), soft_wrap=True)
    if found.broken and not traceback:
        console.print(f"\n{len(found.broken)} broken and left out; `runnerd plugins --traceback` shows where they failed.")
