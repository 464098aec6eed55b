"""NATS with JetStream: the stream keeps a job until it has a result, and the result for a day."""

import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from nats.aio.msg import Msg

from ..codec import MSGPACK, decode_event, decode_result
from ..errors import RunnerdError, Saturated
from ..job import Event, Job, Output, Result, Started, new_id
from .bus import Lost
from .client import Client
from .patience import LanguageInfo, Patience
from .refusal import job_problem
from .request_reply import HEADER_BYTES, URL
from .wire import Access, Mailbox, Wire, event_of, header, open_wire

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
    user: str = "",
    password: str = "",
    token: str = "",
    creds_file: str = "",
    inbox_prefix: str = "",
    tls: ssl.SSLContext | None = None,
    headers: Mapping[str, str] | None = None,
    patience: Patience = Patience(),  # noqa: B008 - frozen
) -> AsyncGenerator[Client]:
    """A client of durable jobs, while the block is open: a job is kept by the server, whatever becomes of us and of daemons.

    `cls` is the priority class; `headers` go with each job: `{"Rd-Queue-Ttl-Ms": "60000"}`. A lost connection is made again.
    Raises IngressError, naming the server and the cause.
    """
    access = Access(user=user, password=password, token=token, user_credentials=creds_file, inbox_prefix=inbox_prefix, tls=tls)
    async with open_wire(url, access, prefix, patience) as wire:
        bus = JetStreamBus(wire, cls=cls, stream_prefix=stream_prefix, headers=headers or {})
        yield Client(bus, tenant=tenant, patience=patience)


class _Ack(msgspec.Struct, frozen=True):
    """What the server says to a message for a stream."""

    stream: str = ""
    error: dict[str, Any] | None = None


class JetStreamBus:
    """Jobs, events and results in streams; see `Bus`."""

    keeps = True

    def __init__(self, wire: Wire, *, cls: str, stream_prefix: str, headers: Mapping[str, str]) -> None:
        self._wire = wire
        self._cls = cls
        self._stream_prefix = stream_prefix
        self._headers = headers

    def problem(self, job: Job, body: bytes) -> str:
        """See `Bus.problem`."""
        return job_problem(job, body, self._wire.nats.max_payload - HEADER_BYTES - sum(map(len, self._headers.values())))

    @asynccontextmanager
    async def lane(self, job: Job, body: bytes, *, stream: bool) -> AsyncIterator["JetStreamLane"]:
        """See `Bus.lane`."""
        inbox = self._wire.nats.new_inbox()
        headers = {
            **self._headers,
            # the same each time that this lane sends, and not another's: what somebody submits again is answered by a daemon
            "Nats-Msg-Id": f"{job.tenant}.{job.id}.{new_id()}",
            "Rd-Job-Id": job.id,
            "Rd-Reply-To": inbox,
            "Content-Type": MSGPACK,
            **({"Rd-Output": "events"} if stream else {}),
        }
        subjects = [inbox, *([self._events(job.tenant, job.id)] if stream else [])]
        async with self._wire.mailbox(*subjects) as box:
            subject = f"{self._wire.prefix}.job.{job.tenant}.{self._cls}.{job.lang}.{job.id}"
            yield JetStreamLane(self._wire, box, subject, body, headers)

    @asynccontextmanager
    async def watch(self, tenant: str, job_id: str) -> AsyncIterator["Watch"]:
        """See `Bus.watch`: what is stored, then what comes."""
        subjects = (self._events(tenant, job_id), self._result(tenant, job_id))
        async with self._wire.mailbox(*subjects) as box:
            yield Watch(self, box, self._events(tenant, job_id))

    async def ask(self, tenant: str, job_id: str, verb: str) -> str | Result | None:
        """See `Bus.ask`: from the stream of results, where no daemon is needed, else from a daemon.

        A status of a job that no daemon can be asked about is None.
        """
        if verb == "status" and (result := await self._stored_result(tenant, job_id)) is not None:
            return result
        return await self._wire.ask(tenant, job_id, verb)

    async def languages(self) -> tuple[LanguageInfo, ...]:
        """See `Bus.languages`."""
        return await self._wire.languages()

    async def stored(self, subject: str, seq: int) -> Msg | None:
        """The first stored event under a subject from this number on; None where there is none, or we may not read it."""
        body = msgspec.json.encode({"seq": seq, "next_by_subj": subject})
        return await self._get(f"{self._stream_prefix}EVT", body)

    async def _stored_result(self, tenant: str, job_id: str) -> Result | None:
        msg = await self._get(f"{self._stream_prefix}RES.{self._result(tenant, job_id)}", b"")
        return None if msg is None else decode_result(msg.data, header(msg, "Content-Type"))

    async def _get(self, what: str, body: bytes) -> Msg | None:
        try:
            msg = await self._wire.request(f"$JS.API.DIRECT.GET.{what}", body)
        except Saturated:  # no such stream, or not for us
            return None
        return msg if header(msg, "Nats-Sequence") else None

    def _events(self, tenant: str, job_id: str) -> str:
        return f"{self._wire.prefix}.evt.{tenant}.{job_id}.>"

    def _result(self, tenant: str, job_id: str) -> str:
        return f"{self._wire.prefix}.res.{tenant}.{job_id}"


class JetStreamLane:
    """One durable job: its events come on their subject, its result to an inbox."""

    def __init__(self, wire: Wire, box: Mailbox, subject: str, body: bytes, headers: dict[str, str]) -> None:
        self._wire = wire
        self._box = box
        self._message = (subject, body, headers)
        self._seq = 0
        self._result: Result | None = None

    async def send(self) -> None:
        """See `Lane.send`. Returns when the stream has the job."""
        subject, body, headers = self._message
        try:
            msg = await self._wire.request(subject, body, dict(headers))
            ack = msgspec.json.decode(msg.data, type=_Ack)
        except Saturated:
            raise Saturated(f"no stream takes {subject}: `runnerd bus init` makes it") from None
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


class Watch:
    """Events of a job: those that are stored, then those that come, then its result."""

    def __init__(self, bus: JetStreamBus, box: Mailbox, subject: str) -> None:
        self._bus = bus
        self._box = box
        self._subject = subject
        self._next: int | None = 1
        """The number in the stream from which on to read; None once all that is stored was read."""
        self._known: set[tuple[str, int]] = set()
        """What was read of the last start and may come again, as it came while we read."""

    async def receive(self, timeout_s: float) -> Event | None:
        """See `News.receive`."""
        while self._next is not None:
            msg = await self._bus.stored(self._subject, self._next)
            if msg is None:
                self._next = None
                break
            self._next = int(header(msg, "Nats-Sequence")) + 1
            event = decode_event(msg.data, header(msg, "Content-Type"))
            if isinstance(event, Started):
                self._known.clear()
            self._known.add(_mark(msg))
            return event
        while (msg := await self._box.get(timeout_s)) is not None:
            if _mark(msg) not in self._known:
                self._known.clear()
                found = event_of(msg)
                if isinstance(found, Started | Output | Result):
                    return found
        return None


def _mark(msg: Msg) -> tuple[str, int]:
    return header(msg, "Rd-Seq"), hash(msg.data)
