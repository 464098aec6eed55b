"""`runnerd run`: one program, on a daemon that runs or on one of its own, with live output and the program's exit code.

`program` reads what is to run, `place` finds the daemon, `live` shows the output, `outfiles` saves files.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import ConfigFile, Json, Set

if TYPE_CHECKING:
    from ..client import Client
    from ..job import Job, Result
    from .live import Live
    from .place import Place, Setup

SERVER_VARIABLE = "RUNNERD_URL"
FAILED, INTERRUPTED, TERMINATED, CLOSED = 125, 130, 143, 141
"""Exit codes: runnerd failed; ended by SIGINT, SIGTERM, SIGPIPE."""
CANCEL_S = 5.0
"""How long the job may take to be cancelled when the command is ended, in seconds."""

Program = Annotated[str, typer.Argument(metavar="FILE|-", help="The program; - reads it from standard input.", show_default=False)]
Args = Annotated[
    list[str] | None,
    typer.Argument(metavar="ARGS", help="The program's arguments. Put -- before them where one starts with a dash.", show_default=False),
]
Lang = Annotated[str, typer.Option("--lang", "-l", metavar="LANG", help="Its language. Default: by its suffix or #! line; py for -.")]
Stdin = Annotated[str, typer.Option("--stdin", metavar="FILE|-", help="Give the program this as its standard input.")]
Inputs = Annotated[
    list[str] | None, typer.Option("--file", "-f", metavar="[NAME=]PATH", help="Put a file beside the program. May be given again.")
]
Out = Annotated[str, typer.Option("--out", "-o", metavar="DIR", help="Save the files that the program leaves in this directory.")]
Force = Annotated[bool, typer.Option("--force", help="With --out: replace files that are there.")]
Timeout = Annotated[float | None, typer.Option("--timeout", "-t", min=0.001, metavar="SECONDS", help="End the program after so long.")]
JobId = Annotated[str, typer.Option("--id", help="The job's id. Given again, it answers the same and runs nothing.")]
Server = Annotated[
    str,
    typer.Option(
        "--server",
        metavar="URL",
        envvar=SERVER_VARIABLE,
        help="The daemon's NATS server, with user and password where it asks for them. Default: as configured.",
    ),
]
Tenant = Annotated[str, typer.Option("--tenant", metavar="NAME", help="Whose job it is.")]


def run(
    program: Program,
    args: Args = None,
    *,
    lang: Lang = "",
    stdin: Stdin = "",
    inputs: Inputs = None,
    out: Out = "",
    force: Force = False,
    timeout: Timeout = None,
    job_id: JobId = "",
    server: Server = "",
    tenant: Tenant = "default",
    file: ConfigFile = "",
    flags: Set = None,
    json: Json = False,
) -> None:
    """Run a program as a job. Its output comes live, its exit code is the command's.

    Where no daemon runs, and none is named, the job gets one of its own. Further exit codes: 128 and the signal that ended the
    program, 124 for a timeout, 125 where runnerd failed.

    Examples:

      runnerd run hello.py

      runnerd run sort.c -- --reverse a b

      echo 'console.log(6 * 7)' | runnerd run - --lang js

      runnerd run plot.py --file data.csv=~/data.csv --out results
    """
    from ..config import load_config
    from ..errors import RunnerdError
    from ..log import LogSettings, open_log
    from ..plugins import find_plugins
    from .place import Place, Setup, place_of
    from .program import read_job

    plugins = find_plugins()
    try:
        job = read_job(
            program,
            args or (),
            plugins=plugins,
            lang=lang,
            stdin=stdin,
            inputs=inputs or (),
            timeout_s=timeout,
            job_id=job_id,
            tenant=tenant,
        )
        place = Place(url=server) if server else place_of(load_config(plugins, file=file, flags=flags or ()))
        setup = Setup(plugins=plugins, lang=job.lang, file=file, flags=flags or ())
        with open_log(LogSettings(level="error", format="text")):
            code = _run(job, place, setup, json=json, out=out, force=force)
    except (RunnerdError, ExceptionGroup) as raised:
        code = _tell(raised)
    raise typer.Exit(code)


def _run(job: "Job", place: "Place", setup: "Setup", *, json: bool, out: str, force: bool) -> int:
    """Run the job, show its output, save its files; returns the exit code. Raises RunnerdError."""
    import asyncio

    from .live import Live, exit_code
    from .outfiles import save_files

    try:
        result = asyncio.run(_submit(job, place, setup, None if json else Live()))
    except KeyboardInterrupt:
        return INTERRUPTED
    except asyncio.CancelledError:
        return TERMINATED
    if result is None:
        return CLOSED
    _report(result, json=json, save=bool(out))
    if out:
        save_files(result.files, Path(out), force=force)
    return exit_code(result)


async def _submit(job: "Job", place: "Place", setup: "Setup", live: "Live | None") -> "Result | None":
    """Run the job to its end; None where nobody reads its output any more. Whoever ends us ends the job as well."""
    import asyncio
    import signal

    from .live import Closed
    from .place import client_at

    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with client_at(place, job.tenant, setup) as client:
        try:
            return await _shown(client, job, live)
        except Closed:
            await _cancel(client, job)
            return None
        except asyncio.CancelledError:
            await _cancel(client, job)
            raise


async def _shown(client: "Client", job: "Job", live: "Live | None") -> "Result":
    """The job's result, after all of its output was shown."""
    from contextlib import aclosing

    from ..job import Result

    async with aclosing(client.stream(job)) as events:
        async for event in events:
            if live is not None:
                await live.show(event)
            if isinstance(event, Result):
                return event
    raise AssertionError("a stream ends with a result")


async def _cancel(client: "Client", job: "Job") -> None:
    import anyio

    with anyio.move_on_after(CANCEL_S, shield=True):
        await client.cancel(job.id)


def _report(result: "Result", *, json: bool, save: bool) -> None:
    import msgspec

    from .live import unsaved, verdict

    if json:
        typer.echo(msgspec.json.encode(result))
        return
    for line in [*verdict(result), *([] if save or not unsaved(result) else [unsaved(result)])]:
        typer.echo(f"runnerd: {line}", err=True)


def _tell(error: BaseException) -> int:
    """Say what failed; returns the exit code. What is no error of ours is raised."""
    from ..errors import RunnerdError

    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if not isinstance(error, RunnerdError):
        raise error
    for line in str(error).splitlines():
        typer.echo(f"runnerd: {line}", err=True)
    return FAILED
