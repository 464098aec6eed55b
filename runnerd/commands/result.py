"""`runnerd result`: how a job ended that was submitted before, by anybody."""

from typing import TYPE_CHECKING

from .ending import NOT_YET, ending, reported, run_to_end, say
from .options import BusKind, ConfigFile, Force, Inbox, JobId, Json, Out, PatienceS, Server, Set, Tenant, Wait

if TYPE_CHECKING:
    from ..client import Client
    from ..job import Result
    from .asking import Asked


def result(
    job_id: JobId,
    *,
    tenant: Tenant = "default",
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
    """Show the result of a job: its output, how it ended, and its exit code as the command's.

    Further exit codes: 122 there is no such job, 123 it has no result yet, 128 and the signal that ended the program, 124 for a
    timeout, 125 where runnerd failed.

    Examples:

      runnerd result 019abc57d2b87c5a9f30d1c2a4b5e6f7 --wait

      runnerd result nightly-2030-01-31 --tenant acme --out results

      runnerd result $id --json | jq .usage
    """
    from .asking import asked

    with ending():
        target = asked(job_id, tenant, server=server, kind=bus, inbox=inbox, file=file, flags=flags or (), patience_s=patience)
        run_to_end(_result(target, wait=wait, json=json, out=out, force=force))


async def _result(target: "Asked", *, wait: bool, json: bool, out: str, force: bool) -> int:
    """Show the result, where there is one; returns the exit code. Raises RunnerdError."""
    from ..job import Result
    from .live import Live

    async with target.client() as client:
        found = await target.state(client)
        if found is None:
            return target.unknown(json=json)
        if not isinstance(found, Result) and not wait:
            say(found.line)
            say("--wait waits for its result")
            return target.pending(found.state, NOT_YET, json=json)
        ended = found if isinstance(found, Result) else await _awaited(client, target, found.line)
    if not json:
        await Live().show(ended)
    return reported(ended, json=json, out=out, force=force)


async def _awaited(client: "Client", target: "Asked", line: str) -> "Result":
    say(line)
    say("waiting for its result")
    async with target.goes_on():
        return await client.wait(target.job_id)
