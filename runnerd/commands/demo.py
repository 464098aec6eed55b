"""`runnerd demo`: a daemon that first runs an example job of every language over its bus, and shows the results."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import ConfigFile, Set

if TYPE_CHECKING:
    from rich.table import Table

    from ..client import Client
    from ..config import Settings
    from ..daemon import Daemon
    from ..job import Result
    from ..spec import Language

TENANT = "demo"
QUIET = "log.level=warning"
"""A line per job would run through the table; flags that are given come after it and win."""
COLORS = {"ok": "green", "no tool chain": "dim"}


def demo(
    *,
    once: Annotated[bool, typer.Option("--once", help="Stop after the table; exit with 1 where a job failed.")] = False,
    file: ConfigFile = "",
    flags: Set = None,
) -> None:
    """Start the daemon, run an example job of every language over NATS, show the results, go on serving.

    Examples:

      runnerd demo

      runnerd demo --once --set ingress.nats.listen=127.0.0.1:0
    """
    from .serve import run_daemon

    right = True

    async def examples(settings: "Settings", daemon: "Daemon") -> bool:
        nonlocal right
        right = await _examples(settings, daemon)
        return not once

    run_daemon(file, (QUIET, *(flags or ())), first=examples)
    if not right:
        raise typer.Exit(1)


async def _examples(settings: "Settings", daemon: "Daemon") -> bool:
    """Run the examples, several at a time; whether all of them ended as they should."""
    import asyncio
    import os

    from rich.live import Live

    from ..client import connect
    from ..errors import ConfigError

    if "nats" not in daemon.addresses:
        raise ConfigError("ingress.nats: not opened, and the examples go over NATS: remove `enabled = false`")
    rows: dict[str, tuple[str, ...]] = {code: _missing(language) for code, language in daemon.languages.items()}
    waiting = [language for code, language in daemon.languages.items() if daemon.availability.present(code)]
    rows |= {language.code: (language.name, "…", "", "", "", "") for language in waiting}
    turns = asyncio.Semaphore(os.cpu_count() or 1)
    right = []
    ingress = settings.ingress["nats"]
    secrets: dict[str, Any] = {name: getattr(ingress, name, "") for name in ("user", "password", "token", "creds_file")}
    async with connect(daemon.addresses["nats"], tenant=TENANT, prefix=getattr(ingress, "prefix", "rd.v1"), **secrets) as client:
        with Live(_table(rows.values()), refresh_per_second=8, transient=False) as live:

            async def example(language: "Language") -> None:
                async with turns:
                    rows[language.code], ended_well = await _example(client, language)
                right.append(ended_well)
                live.update(_table(rows.values()))

            async with asyncio.TaskGroup() as tasks:
                for language in waiting:
                    tasks.create_task(example(language))
    typer.echo()  # a table that is no longer live ends without a newline where there is no terminal
    return all(right)


async def _example(client: "Client", language: "Language") -> tuple[tuple[str, ...], bool]:
    """Run one example; its row of the table, and whether it ended as it should."""
    import time

    from ..errors import RunnerdError
    from ..job import Job

    begin = time.monotonic()
    try:
        result = await client.run(Job(lang=language.code, code=language.hello))
    except RunnerdError as error:
        return (language.name, "no answer", str(error), "", "", ""), False
    took_ms = (time.monotonic() - begin) * 1000
    warm = "" if result.sandbox is None else "warm" if result.sandbox.warm else "cold"
    level = result.sandbox.level if result.sandbox else ""
    row = (language.name, result.status, _words(result), warm, f"{took_ms:.1f}", level)
    return row, result.status == "ok" and result.stdout == "hi\n"


def _words(result: "Result") -> str:
    """What a person wants to see of a result: its output, else why there is none. Cut to a line."""
    stage = result.compile.stderr if result.stage == "compile" and result.compile else ""
    text = result.stdout or result.reason or result.stderr or stage
    return " ".join(text.split())[:100]


def _missing(language: "Language") -> tuple[str, ...]:
    return (language.name, "no tool chain", "", "", "", "")


def _table(rows: Iterable[tuple[str, ...]]) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, title="One example job per language, over NATS and back", title_justify="left")
    for column in ("language", "status", "output", "sandbox"):
        table.add_column(column)
    table.add_column("ms", justify="right")
    table.add_column("isolation")
    for language, status, *rest in rows:
        shown = Text(status, style=COLORS.get(status, "" if status == "…" else "red"))
        table.add_row(language, shown, *map(Text, rest))
    return table
