"""The command line. Errors of runnerd are told as text: what is wrong, where, and what would be right."""

import sys
from typing import Annotated

import typer

from . import __version__
from .commands.asyncapi import asyncapi
from .commands.bus import bus
from .commands.cancel import cancel
from .commands.check import check
from .commands.config import config
from .commands.demo import demo
from .commands.dlq import dlq
from .commands.languages import languages
from .commands.plugins import plugins
from .commands.pools import pools
from .commands.result import result
from .commands.run import run
from .commands.serve import serve
from .commands.sessions import sessions
from .commands.store import store
from .commands.submit import submit
from .commands.tail import tail
from .errors import ConfigError, RunnerdError

app = typer.Typer(
    name="runnerd",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Runs untrusted code as jobs: from a message bus or HTTP, in warm sandboxes, results on the reply subject.",
    epilog="Begin with [bold]runnerd serve[/bold] in one terminal, and [bold]echo 'print(6 * 7)' | runnerd run -[/bold] in another.",
)
app.command()(serve)
app.command()(run)
app.command()(submit)
app.command()(result)
app.command()(cancel)
app.command()(tail)
app.command()(languages)
app.command()(demo)
app.command()(plugins)
app.command()(pools)
app.command()(check)
app.command()(asyncapi)
app.add_typer(config, name="config")
app.add_typer(bus, name="bus")
app.add_typer(dlq, name="dlq")
app.add_typer(sessions, name="sessions")
app.add_typer(store, name="store")


@app.callback()
def options(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=lambda asked: _version(asked=asked), is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options of all commands."""


def _version(*, asked: bool) -> None:
    if asked:
        typer.echo(f"runnerd {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command that the arguments name. Exits with 2 where a setting is wrong, with 1 for any other error."""
    try:
        app()
    except ConfigError as error:
        for problem in error.problems:
            typer.echo(f"runnerd: {problem}", err=True)
        sys.exit(2)
    except RunnerdError as error:
        typer.echo(f"runnerd: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
