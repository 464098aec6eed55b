"""A job that is asked about: whose it is, on which bus, and how people ask again."""

import asyncio
import os
import re
import shlex
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

import msgspec
import typer
from msgspec import Struct

from ..client import Client, Patience
from ..errors import RunnerdError, Saturated
from ..job import TOKEN, Result
from .buses import Bus, bus_of, reached
from .ending import UNKNOWN, say
from .options import SERVER_VARIABLE

CONNECT_S, SENT_S = 10.0, 5.0
"""How long the bus may take to answer at all, and to keep a job, in seconds."""

_PASSWORD = re.compile(r"//[^/@,]*@")


class Pending(NamedTuple):
    """A job that has no result yet, as far as can be told."""

    state: str
    """`queued`, `running`, `scheduled`, or `unseen` where it may wait on the bus, and nobody can tell."""
    line: str
    """The same for people."""


class Asked(Struct, frozen=True, kw_only=True):
    """One job, or one to be, and its bus."""

    job_id: str
    tenant: str
    bus: Bus
    options: tuple[str, ...]
    """Options that lead to the same bus again."""
    patience: Patience

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """A client that asks about it. Raises IngressError."""
        async with reached(self.bus, self.bus.open(self.tenant, self.patience)) as client:
            yield client

    def again(self, *words: str) -> str:
        """The command, in backticks, that does this for the same job on the same bus."""
        tenant = () if self.tenant == "default" else ("--tenant", self.tenant)
        return f"`{shlex.join(('runnerd', *words, *tenant, *self.options))}`"

    @asynccontextmanager
    async def goes_on(self, *, kept: bool = True) -> AsyncIterator[None]:
        """Whatever ends this block early does not end the job: say so, and how to come back. Raises RunnerdError.

        Without `kept` it does not go on where nobody takes it.
        """
        hint = f"the job goes on: {self.again('result', self.job_id, '--wait')} waits for it, {self.again('cancel', self.job_id)} ends it"
        try:
            yield
        except asyncio.CancelledError:
            say(hint)
            raise
        except RunnerdError as error:
            if isinstance(error, Saturated) and not kept:
                raise
            raise RunnerdError(f"{error}\n{hint}") from None

    async def state(self, client: Client) -> Result | Pending | None:
        """What became of it; None where it is known that there is no such job. Raises RunnerdError."""
        try:
            found = await client.status(self.job_id)
        except Saturated as error:
            return Pending("unseen", f"{self.job_id}: nobody can tell whether it waits: {error}")
        if isinstance(found, str):
            return Pending(found, f"{self.job_id} is {found}")
        if found is None and self.bus.kind == "rabbitmq":
            return Pending("unseen", f"{self.job_id}: no daemon has seen it; it may wait in a queue")
        return found

    def unknown(self, *, json: bool) -> int:
        """Say that there is no such job; returns the exit code."""
        say(f"{self.job_id}: there is no such job of tenant {self.tenant} here; results are kept for a while only")
        return self.pending("unknown", UNKNOWN, json=json)

    def pending(self, state: str, code: int, *, json: bool) -> int:
        """Tell programs the state of a job that has no result; returns the exit code."""
        if json:
            typer.echo(msgspec.json.encode({"id": self.job_id, "tenant": self.tenant, "state": state}))
        return code


def asked(job_id: str, tenant: str, *, server: str, kind: str, inbox: str, file: str, flags: Sequence[str], patience_s: float) -> Asked:
    """A job by the options of the command line. Raises RunnerdError, naming the option and the fix."""
    for what, token in (("job id ", job_id), ("--tenant ", tenant)):
        if not TOKEN.fullmatch(token):
            raise RunnerdError(f"{what}{token[:80]!r}: write letters, digits, - and _, at most 64 of them")
    bus = bus_of(server=server, kind=kind, inbox=inbox, file=file, flags=flags)
    named = "" if server == os.environ.get(SERVER_VARIABLE) else _PASSWORD.sub("//…@", server)
    given = (("--server", named), ("--bus", kind), ("--inbox", inbox), ("--config", file))
    options = [word for name, value in given if value for word in (name, value)]
    return Asked(
        job_id=job_id,
        tenant=tenant,
        bus=bus,
        options=(*options, *(word for flag in flags for word in ("--set", flag))),
        patience=Patience(connect_s=CONNECT_S, sent_s=min(SENT_S, patience_s), refused_s=patience_s),
    )
