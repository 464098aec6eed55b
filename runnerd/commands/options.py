"""Options that several commands have."""

from typing import Annotated

import typer


def _languages() -> list[str]:
    from ..plugins import find_plugins

    return sorted(find_plugins().languages)


SERVER_VARIABLE = "RUNNERD_URL"

ConfigFile = Annotated[
    str, typer.Option("--config", "-c", metavar="FILE", help="Read this file instead of ./runnerd.toml.", show_default=False)
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="TABLE.FIELD=VALUE", help="Set one setting; beats all other sources. May be given again."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

Program = Annotated[str, typer.Argument(metavar="FILE|-", help="The program; - reads it from standard input.", show_default=False)]
Args = Annotated[
    list[str] | None,
    typer.Argument(metavar="ARGS", help="The program's arguments. Put -- before them where one starts with a dash.", show_default=False),
]
Lang = Annotated[
    str,
    typer.Option(
        "--lang", "-l", metavar="LANG", autocompletion=_languages, help="Its language. Default: by its suffix or #! line; py for -."
    ),
]
Stdin = Annotated[str, typer.Option("--stdin", metavar="FILE|-", help="Give the program this as its standard input.")]
Inputs = Annotated[
    list[str] | None, typer.Option("--file", "-f", metavar="[NAME=]PATH", help="Put a file beside the program. May be given again.")
]
Out = Annotated[str, typer.Option("--out", "-o", metavar="DIR", help="Save the files that the program leaves in this directory.")]
Force = Annotated[bool, typer.Option("--force", help="With --out: replace files that are there.")]
Timeout = Annotated[float | None, typer.Option("--timeout", "-t", min=0.001, metavar="SECONDS", help="End the program after so long.")]
Tenant = Annotated[str, typer.Option("--tenant", metavar="NAME", help="Whose job it is.")]

# --- what commands that speak to a bus have in common -----------------------------------------------------------

JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id, as `runnerd submit` printed it.", show_default=False)]
Server = Annotated[
    str,
    typer.Option(
        "--server",
        metavar="URL",
        envvar=SERVER_VARIABLE,
        help="The bus: nats://… or amqp://…, with user and password where it asks for them. Default: as configured.",
    ),
]
BusKind = Annotated[
    str,
    typer.Option("--bus", metavar="nats|rabbitmq", autocompletion=lambda: ["nats", "rabbitmq"], help="Which of the configured buses."),
]
Wait = Annotated[bool, typer.Option("--wait", "-w", help="Wait until it has a result.")]
Inbox = Annotated[
    str, typer.Option("--inbox", metavar="PREFIX", help="NATS: first tokens of the subjects for answers, where others are not permitted.")
]
PatienceS = Annotated[
    float,
    typer.Option("--patience", min=0.1, metavar="SECONDS", help="Go on trying for so long where the bus is gone, or nobody knows the job."),
]
