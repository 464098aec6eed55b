"""`runnerd cancel`: ends a job, wherever it is."""

from typing import TYPE_CHECKING

import typer

from .ending import ENDED, ending, run_to_end
from .options import BusKind, ConfigFile, Inbox, JobId, Json, PatienceS, Server, Set, Tenant

if TYPE_CHECKING:
    from ..job import Result
    from .asking import Asked


def cancel(
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
    """Cancel a job that waits or runs, and say what happened. Needs a daemon that runs.

    Exit codes: 0 it is cancelled, 1 it had ended before, 122 there is no such job, 125 it could not be cancelled.

    Examples:

      runnerd cancel 019abc57d2b87c5a9f30d1c2a4b5e6f7

      runnerd cancel nightly-2030-01-31 --tenant acme
    """
    from .asking import asked

    with ending():
        target = asked(job_id, tenant, server=server, kind=bus, inbox=inbox, file=file, flags=flags or (), patience_s=patience)
        run_to_end(_cancel(target, json=json))


async def _cancel(target: "Asked", *, json: bool) -> int:
    """Cancel the job and say what happened; returns the exit code. Raises RunnerdError."""
    from ..errors import RunnerdError, Saturated
    from ..job import Result

    async with target.client() as client:
        before = await target.state(client)
        if before is None:
            return target.unknown(json=json)
        if isinstance(before, Result):
            return _told(before, "it had been before" if before.status == "cancelled" else "it had ended before", json=json)
        try:
            after = await client.cancel(target.job_id)
        except Saturated as error:
            raise RunnerdError(f"a job is cancelled by a daemon, so try again when one runs: {error}") from None
    if after is None:
        return target.unknown(json=json)
    was = "no daemon had seen it; if it comes, it does not run" if before.state == "unseen" else f"it was {before.state}"
    return _told(after, was if after.status == "cancelled" else "it ended before it could be cancelled", json=json)


def _told(result: "Result", was: str, *, json: bool) -> int:
    import msgspec

    typer.echo(msgspec.json.encode(result) if json else f"{result.id}: {result.status}: {was}")
    return 0 if result.status == "cancelled" else ENDED
