"""NATS with JetStream: the stream keeps a job until it has a result, and the result for a day."""

import hashlib
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec

from ..codec import MSGPACK, decode_result
from ..errors import RunnerdError, Saturated
from ..job import Event, Job, Result, new_id
from .bus import Lost
from .client import Client
from .denials import Denied
from .patience import LanguageInfo, Patience
from .refusal import job_problem
from .request_reply import HEADER_BYTES, URL
from .stored import StoredMessages, Watch
from .wire import Access, Mailbox, Wire, event_of, header, open_wire

_BODY_BYTES = 64 << 20
"""Largest body that daemons take in parts, unless they are set otherwise; then they refuse it themselves."""
_LATE_S = 0.5
"""How long a result waits for output that was sent before it on another subject, in seconds."""


@asynccontextmanager
async def connect_jetstream(
    url: str = URL,
    *,
    tenant: str = "default",
    cls: str = "std",
    prefix: str = "rd.v1",
    stream_prefix: str = "RD_",
    domain: str = "",
    user: str = "",
    password: str = "",
    token: str = "",
    nkey_seed_file: str = "",
    creds_file: str = "",
    inbox_prefix: str = "",
    tls: ssl.SSLContext | None = None,
    headers: Mapping[str, str] | None = None,
    patience: Patience = Patience(),  # noqa: B008 - frozen
) -> AsyncGenerator[Client]:
    """A client of durable jobs, while the block is open: a job is kept by the server, whatever becomes of us and of daemons.

    `cls` is the priority class, `domain` JetStream's where it is not the server's own; `headers` go with each job:
    `{"Rd-Queue-Ttl-Ms": "60000"}`. A lost connection is made again. Raises IngressError, naming the server and the cause.
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
        stored = StoredMessages(wire, stream_prefix=stream_prefix, domain=domain)
        bus = JetStreamBus(wire, stored, cls=cls, headers=headers or {})
        yield Client(bus, tenant=tenant, patience=patience)


class _Ack(msgspec.Struct, frozen=True):
    """What the server says to a message for a stream."""

    stream: str = ""
    error: dict[str, Any] | None = None


class JetStreamBus:
    """Jobs, events and results in streams; see `Bus`."""

    keeps = True

    def __init__(self, wire: Wire, stored: StoredMessages, *, cls: str, headers: Mapping[str, str]) -> None:
        self._wire = wire
        self._stored = stored
        self._cls = cls
        self._headers = headers

    def problem(self, job: Job, body: bytes) -> str:
        """See `Bus.problem`."""
        return job_problem(job, body, _BODY_BYTES)

    @asynccontextmanager
    async def lane(self, job: Job, body: bytes, *, stream: bool) -> AsyncIterator["JetStreamLane"]:
        """See `Bus.lane`."""
        inbox = self._wire.nats.new_inbox()
        headers = {
            **({"Rd-Output": "events"} if stream else {}),  # a program's own may ask for more: `durable`
            **self._headers,
            # the same each time that this lane sends, and not another's: what somebody submits again is answered by a daemon
            "Nats-Msg-Id": f"{job.tenant}.{job.id}.{new_id()}",
            "Rd-Job-Id": job.id,
            "Rd-Reply-To": inbox,
            "Content-Type": MSGPACK,
        }
        subjects = [inbox, *([self._events(job.tenant, job.id)] if stream or job.tools else [])]
        async with self._wire.mailbox(*subjects) as box:
            subject = f"{self._wire.prefix}.job.{job.tenant}.{self._cls}.{job.lang}.{job.id}"
            parts = self._parts(job, body)
            if parts:
                body, headers = b"", headers | _announced(body, len(parts))
            yield JetStreamLane(self._wire, box, [*parts, (subject, body, headers)])

    def _parts(self, job: Job, body: bytes) -> list[tuple[str, bytes, dict[str, str]]]:
        """The messages that a body goes ahead in; none where it goes with the job."""
        room = self._wire.nats.max_payload - HEADER_BYTES - sum(map(len, self._headers.values()))
        if len(body) <= room:
            return []
        subject = f"{self._wire.prefix}.part.{job.tenant}.{job.id}"
        pieces = [body[begin : begin + room] for begin in range(0, len(body), room)]
        return [(f"{subject}.{number}", piece, {}) for number, piece in enumerate(pieces, 1)]

    @asynccontextmanager
    async def watch(self, tenant: str, job_id: str) -> AsyncIterator[Watch]:
        """See `Bus.watch`: what is stored, then what comes."""
        subjects = (self._events(tenant, job_id), self._result(tenant, job_id))
        async with self._wire.mailbox(*subjects) as box:
            yield Watch(self._stored, box, self._events(tenant, job_id))

    async def ask(self, tenant: str, job_id: str, verb: str) -> str | Result | None:
        """See `Bus.ask`: from a daemon, but for what the streams tell of a job: its result, and where no daemon is that it waits."""
        if verb != "status":
            return await self._wire.ask(tenant, job_id, verb)
        if (result := await self._recorded(tenant, job_id)) is not None:
            return result
        try:
            return await self._wire.ask(tenant, job_id, verb)
        except Saturated:
            if not await self._waits(tenant, job_id):
                raise
            return "queued"

    async def _recorded(self, tenant: str, job_id: str) -> Result | None:
        try:
            msg = await self._stored.last("RES", self._result(tenant, job_id))
        except (Saturated, Denied):  # no such stream, or not for us: a daemon has it
            return None
        return None if msg is None else decode_result(msg.data, header(msg, "Content-Type"))

    async def _waits(self, tenant: str, job_id: str) -> bool:
        """Whether the job is in the stream of jobs, as far as we may know."""
        with suppress(Saturated, Denied):
            return await self._stored.first("JOBS", f"{self._wire.prefix}.job.{tenant}.*.*.{job_id}") is not None
        return False

    async def feed(self, tenant: str, job_id: str, data: bytes, *, end: bool, timeout_s: float) -> None:
        """See `Bus.feed`."""
        await self._wire.feed(tenant, job_id, data, end=end, timeout_s=timeout_s)

    async def answer(self, tenant: str, job_id: str, call: str, answer: bytes, *, failed: bool) -> None:
        """See `Bus.answer`."""
        await self._wire.answer(tenant, job_id, call, answer, failed=failed)

    async def languages(self) -> tuple[LanguageInfo, ...]:
        """See `Bus.languages`."""
        return await self._wire.languages()

    def _events(self, tenant: str, job_id: str) -> str:
        return f"{self._wire.prefix}.evt.{tenant}.{job_id}.>"

    def _result(self, tenant: str, job_id: str) -> str:
        return f"{self._wire.prefix}.res.{tenant}.{job_id}"


class JetStreamLane:
    """One durable job: its events come on their subject, its result to an inbox."""

    def __init__(self, wire: Wire, box: Mailbox, messages: list[tuple[str, bytes, dict[str, str]]]) -> None:
        """`messages`: the parts of its body, where it comes in parts, and the job."""
        self._wire = wire
        self._box = box
        self._messages = messages
        self._seq = 0
        self._result: Result | None = None

    async def send(self) -> None:
        """See `Lane.send`. Returns when the streams have the job."""
        for subject, body, headers in self._messages:
            await self._stored(subject, body, headers)

    async def _stored(self, subject: str, body: bytes, headers: dict[str, str]) -> None:
        try:
            msg = await self._wire.request(subject, body, dict(headers))
            ack = msgspec.json.decode(msg.data, type=_Ack)
        except Saturated:
            raise Saturated(f"no stream takes {subject}: `runnerd bus init` makes it, for the configured classes") from None
        except msgspec.DecodeError:
            raise Lost("the server did not say that it keeps the job") from None
        if ack.error or not ack.stream:
            raise Saturated(f"the stream takes no job: {(ack.error or {}).get('description', 'no reason given')}")

    async def receive(self, timeout_s: float) -> Event | None:
        """See `News.receive`. The result comes behind the output that was sent before it."""
        while (msg := await self._box.get(timeout_s if self._result is None else min(timeout_s, _LATE_S))) is not None:
            found = event_of(msg)
            if isinstance(found, RunnerdError):
                raise found
            seq = int(header(msg, "Rd-Seq") or 0)
            if isinstance(found, Result):
                if seq <= self._seq + 1:
                    return found
                self._result = found
            elif found is not None:
                self._seq = seq
                return found
        return self._result


def _announced(body: bytes, count: int) -> dict[str, str]:
    """Headers of a job whose body is stored in so many parts."""
    return {"Rd-Parts": str(count), "Rd-Body-Bytes": str(len(body)), "Rd-Body-Sha256": hashlib.sha256(body).hexdigest()}
