"""`runnerd tail`: the output of a job that the bus keeps, while it runs."""

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

import typer

from .ending import ending, reported, run_to_end, say, shown
from .options import BusKind, ConfigFile, Inbox, JobId, Json, PatienceS, Server, Set, Tenant

if TYPE_CHECKING:
    from ..job import Event
    from .asking import Asked


def tail(
    job_id: JobId,
    *,
    tenant: Tenant = "default",
    json: Json = False,
    server: Server = "",
    bus: BusKind = "",
    inbox: Inbox = "",
    patience: PatienceS = 60.0,
    file: ConfigFile = "",
    flags: Set = None,
) -> None:
    """Show the output of a job as it is written, until it has ended; its exit code is the command's. Ctrl-C leaves the job alone.

    JetStream stores output, so it comes from the beginning, also of a job that waits yet; RabbitMQ has it from now on, and
    `runnerd result` the whole in the end. --json prints one event a line, the result last. Exit codes are those of `runnerd result`.

    Examples:

      runnerd tail 019abc57d2b87c5a9f30d1c2a4b5e6f7

      runnerd tail nightly-2030-01-31 --tenant acme --json
    """
    from .asking import asked

    with ending():
        target = asked(job_id, tenant, server=server, kind=bus, inbox=inbox, file=file, flags=flags or (), patience_s=patience)
        run_to_end(_tail(target, json=json))


async def _tail(target: "Asked", *, json: bool) -> int:
    """Show the job to its end; returns the exit code. Raises RunnerdError."""
    from ..job import Result
    from .live import Live

    async with target.client() as client:
        found = await target.state(client)
        if found is None:
            return target.unknown(json=json)
        if isinstance(found, Result) and not json:
            await Live().show(found)
            return reported(found, json=False, out="", force=False)
        if not isinstance(found, Result):
            say(found.line)
        events = client.tail(target.job_id)
        missed = f"output before this is not on the bus any more: {target.again('result', target.job_id)} has the whole in the end"
        async with target.goes_on():
            result = await shown(_printed(events) if json else events, None if json else Live(missed))
    return reported(result, json=False, out="", force=False)


async def _printed(events: "AsyncGenerator[Event]") -> "AsyncGenerator[Event]":
    """The same events, each printed on a line of its own."""
    import msgspec

    async for event in events:
        typer.echo(msgspec.json.encode(event))
        yield event
