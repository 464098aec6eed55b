"""`runnerd bus`: what durable jobs need on the bus, made and looked at."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import typer

from .options import ConfigFile, Set

if TYPE_CHECKING:
    from ..letters import Prepared

bus = typer.Typer(no_args_is_help=True, help="Prepare a bus for durable jobs: streams and consumers, exchanges and queues.")


@bus.command()
def init(*, file: ConfigFile = "", flags: Set = None) -> None:
    """Make what is missing on the bus. What is there already stays as it is, and is reported where it differs.

    Needs the right to do so, which the daemon itself can do without:

      runnerd bus init --set ingress.nats.creds_file=admin.creds
    """
    _tell(_prepare(file, flags or (), make=True))


@bus.command()
def verify(*, file: ConfigFile = "", flags: Set = None) -> None:
    """Compare what is on the bus with the settings. Exits with 1 where anything is missing or differs."""
    found = _prepare(file, flags or (), make=False)
    _tell(found)
    if any(each.missing or each.different for each in found.values()):
        raise typer.Exit(1)


def _prepare(file: str, flags: "list[str] | tuple[str, ...]", *, make: bool) -> "Mapping[str, Prepared]":
    import asyncio

    from ..config import load_config
    from ..log import LogSettings, open_log
    from ..plugins import find_plugins

    ingresses = load_config(find_plugins(), file=file, flags=flags).settings.ingress

    async def each() -> "Mapping[str, Prepared]":
        return {kind: found for kind, ingress in ingresses.items() if (found := await ingress.prepare(make=make)) is not None}

    with open_log(LogSettings(level="error", format="text")):
        return asyncio.run(each())


def _tell(found: "Mapping[str, Prepared]") -> None:
    for kind, prepared in found.items():
        lines = [
            *(f"made {line}" for line in prepared.made),
            *(f"missing: {line}" for line in prepared.missing),
            *(f"differs: {line}" for line in prepared.different),
        ]
        for line in lines or ["all is there, as the settings say"]:
            typer.echo(f"{kind}: {line}")
    if not found:
        typer.echo("No bus here is to be prepared for durable jobs.")
