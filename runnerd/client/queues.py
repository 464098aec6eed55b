"""Jobs, events and questions as messages of RabbitMQ; see `Bus`."""

import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager

from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractIncomingMessage

from ..codec import MSGPACK, decode_event, decode_result
from ..errors import Saturated
from ..job import Event, Job, Result, new_id
from .link import Links, Row
from .patience import LanguageInfo, Patience
from .refusal import job_problem, read_refused

_BODY_BYTES = 64 << 20
"""Most that is sent: the daemon's own limit, and the broker's, are smaller and have their own words."""
_EVENTS = ("rd.result", "rd.started", "rd.out", "rd.err", "rd.call")


@asynccontextmanager
async def open_bus(
    url: str, tls: ssl.SSLContext | None, *, prefix: str, cls: str, headers: Mapping[str, str], patience: Patience
) -> AsyncGenerator["QueueBus"]:
    """A connection while the block is open. Raises IngressError."""
    links = Links(url, tls, patience)
    try:
        await links.link()
        yield QueueBus(links, prefix=prefix, cls=cls, headers=headers, answer_s=patience.answer_s)
    finally:
        await links.close()


class QueueBus:
    """Exchanges under one prefix."""

    keeps = True

    def __init__(self, links: Links, *, prefix: str, cls: str, headers: Mapping[str, str], answer_s: float) -> None:
        self._links = links
        self._prefix = prefix
        self._cls = cls
        self._headers = headers
        self._answer_s = answer_s

    def problem(self, job: Job, body: bytes) -> str:
        """See `Bus.problem`."""
        return job_problem(job, body, _BODY_BYTES)

    @asynccontextmanager
    async def lane(self, job: Job, body: bytes, *, stream: bool) -> AsyncIterator["QueueLane"]:
        """See `Bus.lane`."""
        with_stream = {"rd-stream": "reply"} if stream else {}
        async with self._row() as (correlation, row):
            yield QueueLane(
                self._links,
                row,
                exchange=f"{self._prefix}.jobs",
                key=f"job.{job.tenant}.{self._cls}.{job.lang}",
                message=Message(
                    body,
                    headers={**self._headers, **with_stream},
                    content_type=MSGPACK,
                    message_id=job.id,
                    correlation_id=correlation,
                    delivery_mode=DeliveryMode.PERSISTENT,
                ),
            )

    @asynccontextmanager
    async def watch(self, tenant: str, job_id: str) -> AsyncIterator["EventRow"]:
        """See `Bus.watch`: output of jobs that were submitted with `rd-output: events`, from now on."""
        async with self._row() as (_, row):
            link, queue = await self._links.listen(row, f"{self._prefix}.events", f"evt.{tenant}.{job_id}.*")
            try:
                yield EventRow(row)
            finally:
                await link.forget(queue)

    async def ask(self, tenant: str, job_id: str, verb: str) -> str | Result | None:
        """See `Bus.ask`."""
        answer = await self._told(f"ctl.{tenant}.{job_id}.{verb}", b"", {}, self._answer_s)
        content_type = answer.content_type or ""
        if answer.type == "rd.result":
            return decode_result(answer.body, content_type)
        if answer.type == "rd.status":
            return str(answer.headers["Rd-Status"])
        refused = read_refused(answer.body, content_type)
        if refused.code == 404:
            return None
        raise refused.problem()

    async def feed(self, tenant: str, job_id: str, data: bytes, *, end: bool, timeout_s: float) -> None:
        """See `Bus.feed`."""
        await self._say(f"stdin.{tenant}.{job_id}", data, {"rd-eof": "1"} if end else {}, timeout_s)

    async def answer(self, tenant: str, job_id: str, call: str, answer: bytes, *, failed: bool) -> None:
        """See `Bus.answer`."""
        await self._say(f"tool.{tenant}.{job_id}.{call}", answer, {"rd-failed": "1"} if failed else {}, self._answer_s)

    async def _say(self, key: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> None:
        answer = await self._told(key, body, headers, timeout_s)
        if answer.type not in ("rd.stdin", "rd.answered"):
            raise read_refused(answer.body, answer.content_type or "").problem()

    async def _told(self, key: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> AbstractIncomingMessage:
        """What a daemon says to a message. Raises Saturated, Lost and IngressError."""
        async with self._row() as (correlation, row):
            message = Message(body, headers={"accept": MSGPACK, **headers}, correlation_id=correlation)
            await self._links.publish(message, f"{self._prefix}.ctl", key)
            answer = await row.get(timeout_s)
        if answer is None:
            raise Saturated(f"no answer to {key} within {timeout_s:g} s: does a daemon run?")
        return answer

    async def languages(self) -> tuple[LanguageInfo, ...]:
        """See `Bus.languages`: nobody answers that here, so a job names its language by its code."""
        return ()

    @asynccontextmanager
    async def _row(self) -> AsyncIterator[tuple[str, Row]]:
        correlation, row = new_id(), Row()
        self._links.rows[correlation] = row
        try:
            yield correlation, row
        finally:
            del self._links.rows[correlation]


class EventRow:
    """What comes into a row, as events; see `News`."""

    def __init__(self, row: Row) -> None:
        self._row = row

    async def receive(self, timeout_s: float) -> Event | None:
        """See `News.receive`."""
        message = await self._row.get(timeout_s)
        if message is None:
            return None
        content_type = message.content_type or ""
        if message.type in _EVENTS:
            return decode_event(message.body, content_type)
        raise read_refused(message.body, content_type).problem()


class QueueLane(EventRow):
    """One job's message, and its answers."""

    def __init__(self, links: Links, row: Row, *, exchange: str, key: str, message: Message) -> None:
        super().__init__(row)
        self._links = links
        self._exchange = exchange
        self._key = key
        self._message = message

    async def send(self) -> None:
        """See `Lane.send`. Returns when the broker has the job."""
        await self._links.publish(self._message, self._exchange, self._key)
