"""`runnerd submit`: a job for a bus that keeps it until it has a result, whatever becomes of us and of daemons."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from .ending import ending, reported, run_to_end, say, shown
from .options import (
    Args,
    BusKind,
    ConfigFile,
    Force,
    Inbox,
    Inputs,
    Json,
    Lang,
    Out,
    PatienceS,
    Program,
    Server,
    Set,
    Stdin,
    Tenant,
    Timeout,
    Wait,
)

if TYPE_CHECKING:
    from ..client import Client, Submission
    from ..job import Job, Result
    from .asking import Asked
    from .buses import Opening

ANSWER_S, REFUSAL_S = 30.0, 2.0
"""How long a daemon may take to answer a job again that ended before, and to refuse another under the id of one that runs."""


def _limits() -> list[str]:
    from ..job import Limits

    return [f"{name}=" for name in Limits.__struct_fields__]


OwnId = Annotated[str, typer.Option("--id", help="The job's id. Given again, it runs nothing and has the same result.")]
Arg = Annotated[list[str] | None, typer.Option("--arg", metavar="ARG", help="An argument of the program, as after --. May be given again.")]
Env = Annotated[
    list[str] | None, typer.Option("--env", "-e", metavar="NAME[=VALUE]", help="A variable of the program's. May be given again.")
]
Limit = Annotated[
    list[str] | None,
    typer.Option(
        "--limit", metavar="NAME=VALUE", autocompletion=_limits, help="A limit, such as memory_bytes=64M or cpu_s=2. May be given again."
    ),
]
QueueTtl = Annotated[float | None, typer.Option("--queue-ttl", min=0.001, metavar="SECONDS", help="Give it up if it waits for so long.")]
Class = Annotated[str, typer.Option("--class", metavar="CLASS", help="Its priority class: hi, std or low, or as configured. Default: std.")]
Durable = Annotated[
    bool, typer.Option("--durable/--direct", help="Have the bus keep it (JetStream, RabbitMQ), or ask a daemon on NATS and wait.")
]
Events = Annotated[bool, typer.Option("--events/--no-events", help="Have its output on the bus as it is written, for `runnerd tail`.")]


class Show(NamedTuple):
    """What is wanted of the job's end."""

    wait: bool
    kept: bool
    """Whether the bus keeps the job while we wait."""
    json: bool
    out: str
    force: bool


def submit(
    program: Program,
    args: Args = None,
    *,
    lang: Lang = "",
    own_id: OwnId = "",
    tenant: Tenant = "default",
    arg: Arg = None,
    env: Env = None,
    stdin: Stdin = "",
    inputs: Inputs = None,
    timeout: Timeout = None,
    limit: Limit = None,
    queue_ttl: QueueTtl = None,
    cls: Class = "",
    durable: Durable = True,
    events: Events = True,
    wait: Wait = False,
    out: Out = "",
    force: Force = False,
    json: Json = False,
    server: Server = "",
    bus: BusKind = "",
    inbox: Inbox = "",
    patience: PatienceS = 60.0,
    file: ConfigFile = "",
    flags: Set = None,
) -> None:
    """Hand a job to the bus, which keeps it until it has a result, and print its id.

    `runnerd tail`, `result` and `cancel` take the id, now or later. Submitting it again with the same --id is safe: it runs once.
    With --wait its output comes live, and its exit code is the command's; Ctrl-C leaves the job alone.

    Exit codes: 0 the bus has it, 125 it has not. With --wait those of the program, 128 and the signal that ended it, 124 for a timeout.

    Examples:

      runnerd submit report.py --file data.csv --limit memory_bytes=512M

      id=$(runnerd submit sort.c -- --reverse a b); runnerd result $id --wait

      runnerd submit nightly.py --id nightly-2030-01-31 --class low --wait

      runnerd submit hello.py --server amqp://user:password@rabbit.example.org/jobs
    """
    from ..plugins import find_plugins
    from .asking import asked
    from .program import read_job

    with ending():
        plugins = find_plugins()
        job = read_job(
            program,
            [*(args or ()), *(arg or ())],
            plugins=plugins,
            lang=plugins.aliases.get(lang.lower(), lang),
            stdin=stdin,
            inputs=inputs or (),
            env=env or (),
            limits=limit or (),
            timeout_s=timeout,
            queue_ttl_s=queue_ttl,
            job_id=own_id,
            tenant=tenant,
        )
        target = asked(job.id, tenant, server=server, kind=bus, inbox=inbox, file=file, flags=flags or (), patience_s=patience)
        _check(job, target, durable=durable, wait=wait, cls=cls, out=out)
        options = Show(wait=wait or not durable, kept=durable, json=json, out=out, force=force)
        opening = target.bus.open(tenant, target.patience, direct=not durable, cls=cls, events=events and not wait)
        run_to_end(_submit(job, target, opening, options, live=events or wait, repeated=bool(own_id)))


def _check(job: "Job", target: "Asked", *, durable: bool, wait: bool, cls: str, out: str) -> None:
    """Refuse what can't be meant, before anything is sent. Raises RunnerdError, naming the option and the fix."""
    from ..errors import RunnerdError
    from ..validity import check_job

    check_job(job)
    if out and durable and not wait:
        raise RunnerdError("--out: there are no files yet: add --wait, or save them later with `runnerd result ID --out DIR`")
    if cls and not durable:
        raise RunnerdError("--class: a job that a daemon is asked for directly has none: leave --direct or --class out")
    if cls and target.bus.classes and cls not in target.bus.classes:
        raise RunnerdError(f"--class {cls}: nobody serves it: use one of {', '.join(target.bus.classes)}")


async def _submit(job: "Job", target: "Asked", opening: "Opening", show: Show, *, live: bool, repeated: bool) -> int:
    """Hand the job in; returns the exit code. Raises RunnerdError."""
    from .buses import reached

    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(reached(target.bus, opening))
        known = await _known(client, job) if repeated else None
        submission = await stack.enter_async_context(_sent(client, job, live=live))
        if submission.ended is not None:
            return reported(submission.ended, json=show.json, out="", force=False)
        if show.wait:
            say(f"job {job.id}")
            return await _waited(submission, target, show)
        return await _left(submission, job, known, target, json=show.json)


@asynccontextmanager
async def _sent(client: "Client", job: "Job", *, live: bool) -> AsyncIterator["Submission"]:
    """The job, on the bus. Raises RunnerdError, which says what to do then."""
    from ..client.bus import Lost
    from ..errors import IngressError

    async with AsyncExitStack() as stack:
        try:
            submission = await stack.enter_async_context(client.submit(job, stream=live))
        except Lost as error:
            again = f"submit it again with --id {job.id}, which runs it once"
            raise IngressError(f"{error}\nwhether the bus has the job is not known: {again}") from None
        yield submission


async def _known(client: "Client", job: "Job") -> "str | Result | None":
    """What is known of a job of this id, None where that can't be asked now. What was rejected may be sent again, mended."""
    from ..errors import RunnerdError
    from ..job import Result

    try:
        known = await client.status(job.id)
    except RunnerdError:  # nobody is there to tell, and nobody has to be
        return None
    return None if isinstance(known, Result) and known.status == "rejected" else known


async def _left(submission: "Submission", job: "Job", known: "str | Result | None", target: "Asked", *, json: bool) -> int:
    """Leave the job to the bus; a daemon may refuse it at once where its id is known."""
    import msgspec

    from ..job import Result

    refusal = None if known is None else await _refusal(submission, ANSWER_S if isinstance(known, Result) else REFUSAL_S)
    if refusal is not None:
        return reported(refusal, json=json, out="", force=False)
    if known is not None:
        state = f"has ended ({known.status})" if isinstance(known, Result) else f"is {known}"
        say(f"{job.id} {state} already, and is not run again: {target.again('result', job.id)}")
    typer.echo(msgspec.json.encode({"id": job.id, "tenant": job.tenant, "lang": job.lang}) if json else job.id)
    return 0


async def _refusal(submission: "Submission", most_s: float) -> "Result | None":
    """The rejection of another job under a known id, None where it is the same."""
    import asyncio

    try:
        async with asyncio.timeout(most_s):
            result = await submission.result()
    except TimeoutError:
        return None
    return result if result.status == "rejected" else None


async def _waited(submission: "Submission", target: "Asked", show: Show) -> int:
    """Show the job until its result; returns the exit code. Raises RunnerdError, and CancelledError: the job goes on then."""
    from .live import Live

    async with target.goes_on(kept=show.kept):
        result = await shown(submission.events(), None if show.json else Live())
    return reported(result, json=show.json, out=show.out, force=show.force)
