"""JetStream's requests, over a connection that lasts: each asks once, and says what went wrong."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from msgspec import Struct
from nats.aio.msg import Msg

from ..connection import Connection, NoAnswer

STREAM_MISSING, CONSUMER_MISSING = 10059, 10014
_STORE_FAILED = 10077
_ONE_PER_SUBJECT = "maximum messages per subject exceeded"


class ApiError(Exception):
    """The server refused."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"{description} ({code})")
        self.code = code
        self.description = description

    @property
    def taken(self) -> bool:
        """Whether there is a message under this subject already, in a stream that keeps one per subject."""
        return self.code == _STORE_FAILED and self.description == _ONE_PER_SUBJECT


class Kept(Struct, frozen=True, kw_only=True):
    """A message in a stream."""

    subject: str
    seq: int
    time: str
    """When it was stored, RFC 3339."""
    headers: dict[str, str]
    body: bytes


class Api:
    """Requests to JetStream. Each raises NoAnswer where there is none in time, and ApiError where the server refuses."""

    def __init__(self, connection: Connection, domain: str, *, timeout_s: float, store_s: float) -> None:
        """`timeout_s`: how long an answer may take. `store_s`: how long storing a message may take, which is then tried again."""
        self._connection = connection
        self._root = f"$JS.{domain}.API" if domain else "$JS.API"
        self._timeout_s = timeout_s
        self._store_s = store_s

    async def call(self, what: str, request: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Ask for `what`, such as `STREAM.INFO.NAME`; the answer."""
        body = msgspec.json.encode(request) if request is not None else b""
        msg = await self._connection.request(f"{self._root}.{what}", body, {}, self._timeout_s)
        return _checked(msg)

    async def publish(
        self, subject: str, body: bytes, headers: dict[str, str], meanwhile: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Store a message; returns when the server has it. `meanwhile` is done once it is on its way."""
        _checked(await self._connection.request(subject, body, headers, self._store_s, meanwhile))

    async def pull(self, stream: str, consumer: str, request: Mapping[str, Any], inbox: str) -> bool:
        """Have messages sent to `inbox`; whether the request went out."""
        return await self._connection.ask(f"{self._root}.CONSUMER.MSG.NEXT.{stream}.{consumer}", msgspec.json.encode(request), inbox)

    async def last(self, stream: str, subject: str) -> Kept | None:
        """The last message under a subject, which may have wildcards; None where there is none."""
        return await self._get(stream, {"last_by_subj": subject})

    async def at(self, stream: str, seq: int) -> Kept | None:
        """The message with this number, None where there is none."""
        return await self._get(stream, {"seq": seq})

    async def next(self, stream: str, seq: int, subject: str) -> Kept | None:
        """The first message under a subject from this number on, None where there is none."""
        return await self._get(stream, {"seq": seq, "next_by_subj": subject})

    async def delete(self, stream: str, seq: int) -> None:
        """Remove a message."""
        await self.call(f"STREAM.MSG.DELETE.{stream}", {"seq": seq})

    async def _get(self, stream: str, request: Mapping[str, Any]) -> Kept | None:
        body = msgspec.json.encode(request)
        msg = await self._connection.request(f"{self._root}.DIRECT.GET.{stream}", body, {}, self._timeout_s)
        headers = dict(msg.headers or {})
        if headers.get("Status") == "404" and "Nats-Sequence" not in headers:
            return None
        try:
            subject, seq, time = (headers.pop(name) for name in ("Nats-Subject", "Nats-Sequence", "Nats-Time-Stamp"))
            return Kept(subject=subject, seq=int(seq), time=time, headers=headers, body=msg.data or b"")
        except (KeyError, ValueError):
            raise NoAnswer(f"{stream}: no message, but {headers.get('Description', 'nonsense')}") from None


def _checked(msg: Msg) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = msgspec.json.decode(msg.data, type=dict[str, Any])
    except msgspec.DecodeError:
        raise NoAnswer(f"{msg.subject}: an answer that is not JetStream's") from None
    error = answer.get("error")
    if error:
        raise ApiError(int(error.get("err_code", error.get("code", 0))), str(error.get("description", "refused")))
    return answer
