"""A connection to the server, and JetStream's API over it; its errors, made ours with the server's address and the cause."""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import nats.errors
import structlog
from nats.aio.client import Client, Srv
from nats.aio.msg import Msg
from nats.js import api
from nats.js.errors import APIError

from runnerd import StoreError, nats_access, nats_shown

if TYPE_CHECKING:
    from . import JetStream

log = structlog.get_logger("runnerd.jetstream")

_NOT_FOUND = 404
_WRONG_LAST_SEQUENCE = (10071, 10164)
"""Error codes of a write that expected another last message."""
_BATCH = 500
"""Messages of a scan that are fetched at once."""
_CAUSES = 5
"""Reasons why connecting failed that are named."""
_MARGIN = 4096
"""Bytes of a message kept for its headers."""


class Stored(NamedTuple):
    """A message of a stream."""

    subject: str
    sequence: int
    headers: dict[str, str]
    data: bytes


class _Client(Client):
    """A client that closes the socket of an attempt to connect again that failed half-way; the library forgets it, open."""

    async def _connect_to_server(self, s: Srv) -> None:
        if self._transport is not None:
            self._transport.close()  # type: ignore[no-untyped-call]
        await super()._connect_to_server(s)


class Connection:
    """The server, for as long as it is connected."""

    def __init__(self, client: Client, place: str, *, timeout_s: float, most_waiting: int) -> None:
        self._client = client
        self._jetstream = client.jetstream(timeout=timeout_s)
        self._place = place
        self._timeout_s = timeout_s
        self._turns = asyncio.Semaphore(most_waiting)

    @property
    def payload_bytes(self) -> int:
        """The largest body of a message."""
        return self._client.max_payload - _MARGIN

    async def api(self, verb: str, request: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """Ask JetStream's API; None where what was asked for is not there. Raises StoreError."""
        answer: dict[str, Any] = json.loads((await self._request(f"$JS.API.{verb}", json.dumps(request or {}).encode())).data)
        error = answer.get("error")
        if error is None:
            return answer
        if error.get("code") == _NOT_FOUND:
            return None
        raise self.failure(f"{error.get('description')} ({error.get('err_code')})")

    async def last(self, stream: str, subject: str) -> Stored | None:
        """The last message of a subject, as the stream's leader has it: what was written before is seen. Raises StoreError."""
        answer = await self.api(f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject})
        if answer is None:
            return None
        message = answer["message"]
        headers = _headers(base64.b64decode(message["hdrs"])) if message.get("hdrs") else {}
        return Stored(message["subject"], message["seq"], headers, base64.b64decode(message.get("data", "")))

    async def copy(self, stream: str, subject: str) -> bytes | None:
        """The body of the last message of a subject, as any server of the stream has it: for what never changes. Raises StoreError."""
        answer = await self._request(f"$JS.API.DIRECT.GET.{stream}.{subject}", b"")
        if answer.headers and answer.headers.get("Status"):
            found = await self.last(stream, subject)  # not there, or not there yet
            return None if found is None else found.data
        return answer.data

    async def publish(self, subject: str, data: bytes, headers: dict[str, str], expected: int | None = None) -> int | None:
        """Write a message; returns its sequence, None where the subject's last one is not `expected`. Raises StoreError."""
        if expected is not None:
            headers = headers | {"Nats-Expected-Last-Subject-Sequence": str(expected)}
        answer = json.loads((await self._request(subject, data, headers)).data)
        error = answer.get("error")
        if error is None:
            return int(answer["seq"])
        if expected is not None and error.get("err_code") in _WRONG_LAST_SEQUENCE:
            return None
        raise self.failure(f"{error.get('description')} ({error.get('err_code')})")

    async def purge(self, stream: str, subject: str, sequence: int | None = None) -> None:
        """Remove the messages of a subject, which may have wildcards; up to a sequence where one is given. Raises StoreError."""
        upto = {} if sequence is None else {"seq": sequence + 1}
        await self.api(f"STREAM.PURGE.{stream}", {"filter": subject, **upto})

    async def subjects(self, stream: str, pattern: str) -> AsyncIterator[str]:
        """Subjects of a stream that have messages, in no order. Raises StoreError."""
        offset = 0
        while True:
            answer = await self.api(f"STREAM.INFO.{stream}", {"subjects_filter": pattern, "offset": offset})
            found = (answer or {}).get("state", {}).get("subjects") or {}
            for subject in found:
                yield subject
            offset += len(found)
            if not found or offset >= (answer or {}).get("total", 0):
                return

    async def scan(self, stream: str, pattern: str) -> AsyncIterator[Stored]:
        """The last message of each subject that matches. Raises StoreError."""
        config = api.ConsumerConfig(
            ack_policy=api.AckPolicy.NONE, deliver_policy=api.DeliverPolicy.LAST_PER_SUBJECT, mem_storage=True, inactive_threshold=30.0
        )
        try:
            subscription = await self._jetstream.pull_subscribe(pattern, stream=stream, config=config)
            try:
                left = (await subscription.consumer_info()).num_pending or 0
                while left > 0:
                    for message in await subscription.fetch(min(_BATCH, left), timeout=self._timeout_s):
                        left -= 1
                        yield Stored(message.subject, message.metadata.sequence.stream, dict(message.headers or {}), message.data)
            finally:
                with suppress(nats.errors.Error):
                    await subscription.unsubscribe()
                    await self._jetstream.delete_consumer(stream, (await subscription.consumer_info()).name)
        except APIError as error:
            raise self.failure(f"{error.description} ({error.err_code})") from None
        except (nats.errors.Error, OSError) as error:
            raise self.failure(_said(error)) from None

    def failure(self, cause: str) -> StoreError:
        """An error that names the server."""
        return StoreError(f"JetStream at {self._place}: {cause}")

    async def _request(self, subject: str, data: bytes, headers: dict[str, str] | None = None) -> Msg:
        try:
            async with self._turns:
                return await self._client.request(subject, data, timeout=self._timeout_s, headers=headers or None)
        except nats.errors.NoRespondersError:
            raise self.failure("the server has no JetStream, or not this stream: start it with -js, or create the stream") from None
        except TimeoutError:
            raise self.failure(f"no answer within {self._timeout_s:g} s") from None
        except (nats.errors.Error, OSError) as error:
            raise self.failure(_said(error)) from None


def _said(error: Exception) -> str:
    return str(error).removeprefix("nats: ") or type(error).__name__


def _headers(block: bytes) -> dict[str, str]:
    """A block of headers as the server keeps it: a line of its own, then one per header."""
    lines = block.decode(errors="replace").split("\r\n")[1:]
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines) if name}


@asynccontextmanager
async def connected(store: "JetStream") -> AsyncGenerator[Connection, None]:
    """Connect, and connect again whenever the connection is lost, while the block is open. Raises StoreError."""
    place = nats_shown(store.url)
    causes: dict[str, None] = {}

    task = asyncio.current_task()
    assert task is not None
    cancels = task.cancelling()

    async def on_error(error: Exception) -> None:
        if not client.is_connected and asyncio.current_task() is task and task.cancelling() > cancels:
            raise asyncio.CancelledError  # the library has swallowed it, and would try again for ever
        cause = _said(error)
        if cause in causes or len(causes) == _CAUSES:
            return  # it is tried again several times a second: each cause is told once until there is a connection
        causes[cause] = None
        log.warning("the connection to JetStream fails", server=place, reason=cause)

    async def on_reconnect() -> None:
        causes.clear()
        log.info("connected to JetStream again", server=place)

    client = _Client()
    try:
        try:
            async with asyncio.timeout(store.connect_s):
                await client.connect(
                    [url.strip() for url in store.url.split(",")],
                    name="runnerd store",
                    error_cb=on_error,
                    reconnected_cb=on_reconnect,
                    connect_timeout=max(1, round(store.connect_s)),
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=0.2,  # type: ignore[arg-type]
                    allow_reconnect=True,
                    **nats_access(store, "store.jetstream", StoreError),
                )
        except (nats.errors.Error, OSError, TimeoutError) as error:
            cause = "; ".join(causes) or _said(error)
            raise StoreError(f"JetStream at {place}: can't be reached within {store.connect_s:g} s: {cause}") from None
        yield Connection(client, place, timeout_s=store.timeout_s, most_waiting=store.most_waiting)
    finally:
        with suppress(nats.errors.Error, OSError, AssertionError):  # the last: of a client that never got to connect
            await client.close()
