"""`runnerd run`: one program, on a daemon that runs or on one of its own, with live output and the program's exit code.

`program` reads what is to run, `place` finds the daemon, `live` shows the output, `ending` says how it ended.
"""

from typing import TYPE_CHECKING, Annotated

import typer

from .ending import CLOSED, ending, reported, run_to_end, shown
from .options import SERVER_VARIABLE, Args, ConfigFile, Force, Inputs, Json, Lang, Out, Program, Set, Stdin, Tenant, Timeout

if TYPE_CHECKING:
    from ..client import Client
    from ..job import Job, Result
    from .access import Place
    from .live import Live
    from .place import Setup

CANCEL_S = 5.0
"""How long the job may take to be cancelled when the command is ended, in seconds."""

Interactive = Annotated[bool, typer.Option("--interactive", "-i", help="Pass standard input on while the program runs.")]
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
    interactive: Interactive = False,
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

      runnerd run --interactive quiz.py
    """
    from ..config import load_config
    from ..plugins import find_plugins
    from .access import Place
    from .place import Setup, place_of
    from .program import read_job

    with ending():
        plugins = find_plugins()
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
            interactive=interactive,
        )
        place = Place(url=server) if server else place_of(load_config(plugins, file=file, flags=flags or ()))
        setup = Setup(plugins=plugins, lang=job.lang, file=file, flags=flags or ())
        run_to_end(_run(job, place, setup, json=json, out=out, force=force))


async def _run(job: "Job", place: "Place", setup: "Setup", *, json: bool, out: str, force: bool) -> int:
    """Run the job to its end, show its output, save its files; returns the exit code. Whoever ends us ends the job as well."""
    import asyncio

    from .live import Closed, Live
    from .place import client_at

    async with client_at(place, job.tenant, setup) as client:
        try:
            live = None if json else Live()
            result = await (_talked(client, job, live) if job.interactive else shown(client.stream(job), live))
        except Closed:
            await _cancel(client, job)
            return CLOSED
        except asyncio.CancelledError:
            await _cancel(client, job)
            raise
    return reported(result, json=json, out=out, force=force)


async def _talked(client: "Client", job: "Job", live: "Live | None") -> "Result":
    """The job's result, while it gets what is typed."""
    from ..nursery import open_nursery
    from .typed import pass_on

    async with client.submit(job, stream=True) as submission, open_nursery() as tasks:
        typed = tasks.create_task(pass_on(submission))
        try:
            return await shown(submission.events(), live)
        finally:
            typed.cancel()


async def _cancel(client: "Client", job: "Job") -> None:
    import anyio

    with anyio.move_on_after(CANCEL_S, shield=True):
        await client.cancel(job.id)
