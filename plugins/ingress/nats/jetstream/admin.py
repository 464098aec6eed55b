"""What operators do: prepare a server, look at dead letters, run them again. With a connection of their own."""

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from msgspec.structs import replace

from runnerd import Counters, DeadLetter, IngressError, Interrupted, Prepared, nats_shown

from ..connection import NoAnswer
from ..links import bus_of
from ..log import log
from ..refusal import Refusal
from ..reply import MARGIN, size_of
from ..request import folded
from .api import Api, ApiError, Kept
from .bodies import Announced, Bodies, announced
from .part import tools
from .setup import Setup
from .topology import DEAD, Topology

if TYPE_CHECKING:
    from .. import Nats

_OWN = re.compile(
    r"nats-|content-encoding$"
    r"|rd-(dead-reason|attempts|subject|stream-seq|left-out|parts|body-bytes|body-sha256|job-id|queue-ttl-ms|deadline)$",
    re.IGNORECASE,
)
"""Headers of a letter that do not go with the job when it is submitted again: its times are over, and the id is a new one."""
_LARGEST_BYTES = 1 << 32
"""Of a body; the daemon that took the job had a bound of its own."""


@asynccontextmanager
async def connected(nats: "Nats") -> AsyncGenerator[tuple[Api, Topology, int]]:
    """JetStream's requests, over a connection of our own; what there should be; bytes of a message. Raises IngressError."""
    url = nats.url or f"nats://{nats.listen}"
    async with bus_of(nats, url, Counters(log)) as bus:
        yield *tools(nats, bus), bus.main.max_payload


async def prepare(nats: "Nats", *, make: bool) -> Prepared | None:
    """See `Ingress.prepare`. The embedded server is there only while its daemon runs, which prepares it."""
    if nats.jetstream.streams == "off" or (not nats.url and nats.jetstream.streams != "verify"):
        return None
    async with connected(nats) as (api, topology, _):
        found = await Setup(api, topology).look(make=make)
    return Prepared(made=tuple(found.made), missing=tuple(found.missing), different=tuple(found.different))


@asynccontextmanager
async def dead_letters(nats: "Nats") -> AsyncGenerator["Letters"]:
    """See `Ingress.dead_letters`."""
    async with connected(nats) as (api, topology, most):
        bodies = Bodies(api, topology, Counters(log), nats.jetstream.bodies_bytes)
        yield Letters(api, topology, bodies, nats_shown(nats.url or nats.listen), most)


class Letters:
    """The dead letters of one server, see `DeadLetters`."""

    def __init__(self, api: Api, topology: Topology, bodies: Bodies, where: str, most: int) -> None:
        self._api = api
        self._bodies = bodies
        self._most = most
        self._stream = topology.stream(DEAD)
        self._subject = f"{topology.prefix}.dead.>"
        self._prefix = topology.prefix
        self._where = where

    async def all(self) -> AsyncIterator[DeadLetter]:
        """See `DeadLetters.all`."""
        seq = 1
        while (kept := await self._asked(seq, next_=True)) is not None:
            yield _letter(kept, self._prefix)
            seq = kept.seq + 1

    async def get(self, number: str) -> DeadLetter | None:
        """See `DeadLetters.get`."""
        kept = await self._asked(int(number), next_=False) if number.isdecimal() else None
        if kept is None:
            return None
        letter = _letter(kept, self._prefix)
        with suppress(Refusal, Interrupted):  # then the letter has no body, and says so
            if (body := _announced(letter)) is not None:
                letter = replace(letter, body=await self._bodies.together(body))
        return letter

    async def replay(self, letter: DeadLetter, job_id: str, body: bytes) -> None:
        """See `DeadLetters.replay`."""
        headers = {name: value for name, value in letter.headers.items() if not _OWN.match(name)}
        headers |= {"Nats-Msg-Id": job_id, "Rd-Job-Id": job_id, "Rd-Replay-Of": letter.job_id}
        parts = letter.address.removeprefix(self._prefix + ".").split(".")[:4]  # without the job's id, where it is there
        stored = _announced(letter)
        try:
            if size_of(headers) + len(body) + MARGIN > self._most:
                headers |= await self._bodies.store(letter.tenant, job_id, body, self._most - MARGIN)
                body = b""
            await self._api.publish(f"{self._prefix}.{'.'.join(parts)}", body, headers)
            await self._api.delete(self._stream, int(letter.number))
            if stored is not None:
                await self._bodies.forget(stored)
        except (NoAnswer, ApiError) as error:
            raise IngressError(f"{self._where}: dead letter {letter.number}: {error}") from None

    async def _asked(self, seq: int, *, next_: bool) -> Kept | None:
        try:
            return await (self._api.next(self._stream, seq, self._subject) if next_ else self._api.at(self._stream, seq))
        except (NoAnswer, ApiError) as error:
            raise IngressError(f"{self._where}: stream {self._stream}: {error}: `runnerd bus init` makes it") from None


def _announced(letter: DeadLetter) -> Announced | None:
    """The letter's body, where it came in parts. Raises Refusal for a letter that is not runnerd's own."""
    return announced(letter.tenant, letter.job_id, b"", folded(letter.headers), _LARGEST_BYTES)


def _letter(kept: Kept, prefix: str) -> DeadLetter:
    folded = {name.lower(): value for name, value in kept.headers.items()}
    tenant, _, lang = kept.subject.removeprefix(f"{prefix}.dead.").split(".")
    starts = folded.get("rd-attempts", "")
    return DeadLetter(
        number=str(kept.seq),
        tenant=tenant,
        lang=lang,
        job_id=folded.get("rd-job-id", ""),
        reason=folded.get("rd-dead-reason", ""),
        starts=int(starts) if starts.isdecimal() else 0,
        died=kept.time,
        address=folded.get("rd-subject", ""),
        content_type=folded.get("content-type", ""),
        content_encoding=folded.get("content-encoding", ""),
        headers=kept.headers,
        body=kept.body,
    )
