"""Bodies that are larger than a message: their parts are stored ahead of the job, and put together when it comes.

A part is a message under `<prefix>.part.<tenant>.<job>.<number>`, numbered from 1. So a submitter needs no other store than
the server, and what it may write there is its own by its subject.
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

from msgspec import Struct

from runnerd import Counters, Interrupted

from ..connection import NoAnswer
from ..refusal import BAD_REQUEST, TOO_LARGE, Refusal
from .api import Api, ApiError, Kept
from .topology import PARTS, Topology

_MOST = 1024
"""Parts of one body."""
_NUMBER = re.compile(r"[1-9]\d{0,9}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Missing(Refusal):
    """A body of which not all parts are there: some never came, or its job has ended and they are gone."""


class Announced(Struct, frozen=True, kw_only=True):
    """A body that its job's message announces."""

    tenant: str
    job: str
    """The job's id."""
    count: int
    size: int
    """In bytes."""
    sha256: str
    """Of the body, in hex; empty where nobody says."""


def announced(tenant: str, job_id: str, body: bytes, headers: Mapping[str, str], most: int) -> Announced | None:
    """The body that a message announces, None where it has its body with it. `headers` are folded; `most`: bytes of a body.

    Raises Refusal, naming the header and the fix.
    """
    if "rd-parts" not in headers:
        return None
    if body:
        raise Refusal(BAD_REQUEST, "body: must be empty where Rd-Parts says that it is stored in parts")
    count, size = (_number(headers, name) for name in ("Rd-Parts", "Rd-Body-Bytes"))
    if count > _MOST:
        raise Refusal(BAD_REQUEST, f"Rd-Parts: {count}, and at most {_MOST} are taken: make them larger")
    if size > most:
        raise Refusal(TOO_LARGE, f"Rd-Body-Bytes: {size} bytes, and at most {most} are taken here")
    if not job_id:
        raise Refusal(BAD_REQUEST, "Rd-Parts: needs the job's id, under which the parts are stored: set Rd-Job-Id")
    sha256 = headers.get("rd-body-sha256", "").lower()
    if sha256 and not _SHA256.fullmatch(sha256):
        raise Refusal(BAD_REQUEST, f"Rd-Body-Sha256: {sha256[:80]!r} must be 64 hex digits")
    return Announced(tenant=tenant, job=job_id, count=count, size=size, sha256=sha256)


def _number(headers: Mapping[str, str], name: str) -> int:
    text = headers.get(name.lower(), "")
    if not _NUMBER.fullmatch(text):
        raise Refusal(BAD_REQUEST, f"{name}: {text[:40]!r} must be a whole number above 0")
    return int(text)


class Bodies:
    """Puts bodies together, so many bytes of them at once; further jobs wait."""

    def __init__(self, api: Api, topology: Topology, counters: Counters, held_bytes: int) -> None:
        self._api = api
        self._topology = topology
        self._counters = counters
        self.coming = 0
        """Jobs that are in hand, and not in the daemon's own count: their bodies are not there yet."""
        self._most = held_bytes
        self._held = 0
        self._room = asyncio.Condition()

    @asynccontextmanager
    async def body(self, body: Announced) -> AsyncGenerator[bytes]:
        """The whole body, which has its room in memory while the block is open. Raises Missing, Refusal and Interrupted."""
        self.coming += 1
        try:
            async with self._room:
                await self._room.wait_for(lambda: self._held == 0 or self._held + body.size <= self._most)
                self._held += body.size
            try:
                whole = await self.together(body)
            except BaseException:
                await self._leave(body)
                raise
        finally:
            self.coming -= 1
        try:
            yield whole
        finally:
            await self._leave(body)

    async def _leave(self, body: Announced) -> None:
        self._held -= body.size
        async with self._room:
            self._room.notify_all()

    async def store(self, tenant: str, job_id: str, body: bytes, size: int) -> dict[str, str]:
        """Store a body in parts of `size` bytes; the headers that announce it. Raises NoAnswer and ApiError."""
        pieces = [body[begin : begin + size] for begin in range(0, len(body), size)]
        for number, piece in enumerate(pieces, 1):
            await self._api.publish(f"{self._topology.prefix}.part.{tenant}.{job_id}.{number}", piece, {})
        sha256 = hashlib.sha256(body).hexdigest()
        return {"Rd-Parts": str(len(pieces)), "Rd-Body-Bytes": str(len(body)), "Rd-Body-Sha256": sha256}

    async def forget(self, body: Announced) -> None:
        """Remove the parts; those that can't be removed now are gone when their time is over."""
        for number in range(1, body.count + 1):
            try:
                part = await self._part(body, number)
                if part is not None:
                    await self._api.delete(self._topology.stream(PARTS), part.seq)
            except (NoAnswer, ApiError) as error:
                self._counters.count("parts_left", job=body.job, cause=str(error))
                return

    async def together(self, body: Announced) -> bytes:
        """The whole body, wherever it finds room. Raises what `body` raises."""
        whole, sha256 = bytearray(), hashlib.sha256()
        for number in range(1, body.count + 1):
            try:
                part = await self._part(body, number)
            except (NoAnswer, ApiError) as error:
                raise Interrupted(f"the parts of its body can't be read: {error}") from error
            if part is None:
                raise Missing(BAD_REQUEST, f"Rd-Parts: part {number} of {body.count} is not stored under {self._subject(body, number)}")
            whole += part.body
            sha256.update(part.body)
            if len(whole) > body.size:  # more of it has no room
                raise Refusal(BAD_REQUEST, f"Rd-Body-Bytes: {body.size}, but the {body.count} parts together have more")
        if len(whole) < body.size:
            raise Refusal(BAD_REQUEST, f"Rd-Body-Bytes: {body.size}, but the {body.count} parts together have {len(whole)}")
        if body.sha256 not in ("", sha256.hexdigest()):
            raise Refusal(BAD_REQUEST, f"Rd-Body-Sha256: the parts together have {sha256.hexdigest()}: was another body sent meanwhile?")
        return bytes(whole)

    async def _part(self, body: Announced, number: int) -> Kept | None:
        return await self._api.last(self._topology.stream(PARTS), self._subject(body, number))

    def _subject(self, body: Announced, number: int) -> str:
        return f"{self._topology.prefix}.part.{body.tenant}.{body.job}.{number}"
