"""NATS, request and reply: a daemon takes a job at once, or refuses it. Nobody keeps it but who sent it."""

import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from ..codec import MSGPACK
from ..errors import RunnerdError
from ..job import Event, Job, Result
from .client import Client
from .patience import LanguageInfo, Patience
from .refusal import job_problem
from .wire import HEADER_BYTES, WAITING_BYTES, Access, Mailbox, Wire, event_of, open_wire

__all__ = ["HEADER_BYTES", "URL", "WAITING_BYTES", "connect"]

URL = "nats://127.0.0.1:4222"
"""Where `runnerd serve` listens without any configuration."""


@asynccontextmanager
async def connect(
    url: str = URL,
    *,
    tenant: str = "default",
    prefix: str = "rd.v1",
    user: str = "",
    password: str = "",
    token: str = "",
    nkey_seed_file: str = "",
    creds_file: str = "",
    inbox_prefix: str = "",
    tls: ssl.SSLContext | None = None,
    patience: Patience = Patience(),  # noqa: B008 - frozen
) -> AsyncGenerator[Client]:
    """A client that asks a daemon directly, while the block is open. `url` is one server or several with commas.

    A lost connection is made again. Raises IngressError, naming the server and the cause.
    """
    access = Access(
        user=user,
        password=password,
        token=token,
        nkeys_seed=nkey_seed_file,
        user_credentials=creds_file,
        inbox_prefix=inbox_prefix,
        tls=tls,
    )
    async with open_wire(url, access, prefix, patience) as wire:
        yield Client(CoreBus(wire), tenant=tenant, patience=patience)


class CoreBus:
    """Requests to daemons; see `Bus`."""

    keeps = False

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def problem(self, job: Job, body: bytes) -> str:
        """See `Bus.problem`."""
        return job_problem(job, body, self._wire.nats.max_payload - HEADER_BYTES)

    @asynccontextmanager
    async def lane(self, job: Job, body: bytes, *, stream: bool) -> AsyncIterator["CoreLane"]:
        """See `Bus.lane`."""
        inbox = self._wire.nats.new_inbox()
        headers = {"Rd-Job-Id": job.id, "Content-Type": MSGPACK, **({"Rd-Stream": "reply"} if stream else {})}
        async with self._wire.mailbox(inbox) as box:
            yield CoreLane(self._wire, box, f"{self._wire.prefix}.run.{job.tenant}.{job.lang}", body, inbox, headers)

    @asynccontextmanager
    async def watch(self, tenant: str, job_id: str) -> AsyncIterator["NewsBox"]:
        """See `Bus.watch`: events go to who asked for them, so there are none here but those of durable jobs."""
        async with self._wire.mailbox(f"{self._wire.prefix}.evt.{tenant}.{job_id}.>") as box:
            yield NewsBox(box)

    async def ask(self, tenant: str, job_id: str, verb: str) -> str | Result | None:
        """See `Bus.ask`."""
        return await self._wire.ask(tenant, job_id, verb)

    async def feed(self, tenant: str, job_id: str, data: bytes, *, end: bool, timeout_s: float) -> None:
        """See `Bus.feed`."""
        await self._wire.feed(tenant, job_id, data, end=end, timeout_s=timeout_s)

    async def answer(self, tenant: str, job_id: str, call: str, answer: bytes, *, failed: bool) -> None:
        """See `Bus.answer`."""
        await self._wire.answer(tenant, job_id, call, answer, failed=failed)

    async def languages(self) -> tuple[LanguageInfo, ...]:
        """See `Bus.languages`."""
        return await self._wire.languages()


class NewsBox:
    """What comes into a mailbox, as events; see `News`."""

    def __init__(self, box: Mailbox) -> None:
        self._box = box

    async def receive(self, timeout_s: float) -> Event | None:
        """See `News.receive`."""
        while (msg := await self._box.get(timeout_s)) is not None:
            found = event_of(msg)
            if isinstance(found, RunnerdError):
                raise found
            if found is not None:  # an empty message only ends a stream
                return found
        return None


class CoreLane(NewsBox):
    """One request, and its answers."""

    def __init__(self, wire: Wire, box: Mailbox, subject: str, body: bytes, inbox: str, headers: dict[str, str]) -> None:
        super().__init__(box)
        self._wire = wire
        self._message = (subject, body, inbox, headers)

    async def send(self) -> None:
        """See `Lane.send`."""
        subject, body, inbox, headers = self._message
        await self._wire.publish(subject, body, inbox, dict(headers))
