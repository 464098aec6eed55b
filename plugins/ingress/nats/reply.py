"""Answers to one requester: headers, size, and the one place from which they go out."""

import asyncio
import os
import re
import socket
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import msgspec

from runnerd import JSON, MSGPACK, Counters, Result, cut_result

from .connection import Connection
from .refusal import Refusal, Refused
from .request import answer_type, correlation, job_id, trace

MARGIN = 1024
"""Bytes kept free in each message: a server that counts one more than we do would close the client for good."""

_ENCODE: Mapping[str, Callable[[Any], bytes]] = {
    JSON: msgspec.json.Encoder().encode,
    MSGPACK: msgspec.msgpack.Encoder().encode,
}
_CODES = {"rejected": 400, "cancelled": 499, "dead": 500, "expired": 504}
"""Results that are errors of the service, not of the program, with the code that `nats micro` tools understand."""

_MOST_HEADERS = 16 << 10
"""No answer's headers take so many bytes, since each that goes back is bounded."""
_ESCAPED = 16
"""A character takes less than so many bytes of a message, its exact bytes beside it included."""

ERROR, ERROR_CODE = "Nats-Service-Error", "Nats-Service-Error-Code"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


def heading(text: str) -> str:
    """`text` as the value of a header: one line of at most 200 characters."""
    return _CONTROL.sub(" ", text)[:200].encode(errors="replace").decode()


def size_of(headers: Mapping[str, str]) -> int:
    """Bytes that `headers` take on the wire."""
    return 12 + 4 * len(headers) + len("".join(headers)) + len("".join(headers.values()).encode())


@cache
def worker() -> str:
    """Which daemon answers, for people to read."""
    return heading(f"{socket.gethostname()}/{os.getpid()}")


class Reply:
    """The way back to one requester, for one answer. Its own headers never go back, but for the correlation id."""

    def __init__(self, subject: str, connection: Connection, counters: Counters, headers: Mapping[str, str]) -> None:
        self.subject = subject
        self.connection = connection
        self._counters = counters
        self._correlation = correlation(headers)
        self._trace = trace(headers)
        self.job_id = heading(job_id(headers)[:64])
        self.accept = answer_type(headers)
        self.encode = _ENCODE[self.accept]
        self.many = False
        """Whether there are many messages for this requester: then an empty one is the last of all (ADR-47)."""
        self.came = asyncio.get_running_loop().time()
        """When the request came, on the loop's clock."""

    def since_ms(self) -> float:
        """Milliseconds since the request came."""
        return (asyncio.get_running_loop().time() - self.came) * 1000

    def headers(self, kind: str) -> dict[str, str]:
        """Headers that every answer has, in a fresh dict."""
        headers = {"Content-Type": self.accept, "Rd-Kind": kind}
        if self.job_id:
            headers["Rd-Job-Id"] = self.job_id
        if self._correlation:
            headers["Rd-Correlation-Id"] = self._correlation
        headers.update(self._trace)
        return headers

    def room_for(self, headers: Mapping[str, str]) -> int:
        """Bytes that a body beside `headers` may have."""
        return self.connection.max_payload - size_of(headers) - MARGIN

    async def result(self, result: Result, code: int | None = None, more: Mapping[str, str] | None = None) -> str:
        """Send the result, cut where the bus takes no more; returns the service's error, empty where there is none."""
        body, headers = self.message(result, code, more)
        await self._send(body, headers)
        return f"{headers[ERROR_CODE]}: {headers[ERROR]}" if ERROR_CODE in headers else ""

    def fits(self, result: Result) -> bool:
        """Whether the whole result goes into one message, with headers beside it."""
        rough = sum(len(file.text or "") + len(file.data or b"") for file in result.files) + len(result.stdout) + len(result.stderr)
        if rough < (self.connection.max_payload - _MOST_HEADERS) // _ESCAPED:
            return True
        return len(self.encode(result)) <= self.room_for(self.headers("result")) - MARGIN

    def message(self, result: Result, code: int | None = None, more: Mapping[str, str] | None = None) -> tuple[bytes, dict[str, str]]:
        """The result as a message: body and headers."""
        self.job_id = result.id or self.job_id
        headers = self.headers("result")
        headers["Rd-Status"] = result.status
        if result.starts:
            headers["Rd-Attempt"] = str(result.starts)
        headers["Rd-Worker"] = worker()
        headers["Rd-Duration-Ms"] = f"{self.since_ms():.3f}"
        if result.exit_code is not None:
            headers["Rd-Exit-Code"] = str(result.exit_code)
        code = code or _CODES.get(result.status)
        if code is not None:
            headers[ERROR] = heading(result.reason or result.status)
            headers[ERROR_CODE] = str(code)
        if more:
            headers.update(more)
        body, cut = cut_result(result, self.encode, self.room_for(headers))
        if cut:
            self._counters.count("results_cut", job=self.job_id)
        return body, headers

    async def refuse(self, refusal: Refusal) -> str:
        """Say that nothing was run, and what to do; returns the service's error."""
        headers = self.headers("refused")
        headers[ERROR] = heading(refusal.reason)
        headers[ERROR_CODE] = str(refusal.code)
        if refusal.retry_after_ms is not None:
            headers["Rd-Retry-After-Ms"] = str(refusal.retry_after_ms)
        body = Refused(error=refusal.reason, code=refusal.code, retry_after_ms=refusal.retry_after_ms)
        await self._send(self.encode(body), headers)
        return f"{refusal.code}: {headers[ERROR]}"

    async def data(self, kind: str, data: object, more: Mapping[str, str] | None = None) -> str:
        """Send plain data. What is too large for the bus is refused instead."""
        headers = self.headers(kind) | dict(more or {})
        body = self.encode(data)
        if len(body) > self.room_for(headers):
            return await self.refuse(Refusal(413, f"the answer has {len(body)} bytes, more than a message of this bus takes"))
        await self._send(body, headers)
        return ""

    async def _send(self, body: bytes, headers: dict[str, str]) -> None:
        await self.connection.publish(self.subject, body, headers, at_once=not self.many)
        if self.many:
            await self.connection.publish(self.subject, b"", {}, at_once=True)
