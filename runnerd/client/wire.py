"""A connection to a NATS server, made again when it is lost; messages that come are put into mailboxes."""

import asyncio
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import msgspec
import nats.errors
from msgspec import Struct
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from ..codec import MSGPACK, decode_event, decode_result
from ..errors import IngressError, OverLimit, RunnerdError, Saturated
from ..job import Event, Result
from .bus import Lost
from .denials import Denials
from .patience import LanguageInfo, Patience
from .refusal import read_refused

WAITING_BYTES = 64 << 20
"""Bytes of output that may wait until a program takes them; what comes then is lost, but the result has it."""

HEADER_BYTES = 1024
"""More than the headers of a job, and what the server adds, take of a message."""
_PENDING_BYTES = 32 << 20
"""Bytes of jobs that may wait for the server."""
_EVENTS = ("result", "started", "out", "err", "call")
_PASSWORD = re.compile(r"//[^/@,]*@")


class Access(Struct, frozen=True, kw_only=True):
    """Who we are to a NATS server. The names are those of the library."""

    user: str = ""
    password: str = ""
    token: str = ""
    nkeys_seed: str = ""
    user_credentials: str = ""
    inbox_prefix: str = ""
    tls: ssl.SSLContext | None = None

    def given(self) -> dict[str, Any]:
        """What is not empty."""
        return {name: value for name in self.__struct_fields__ if (value := getattr(self, name))}


class Mailbox:
    """Messages of some subjects, in one row. What a program is too slow for waits in the library, up to its bound."""

    def __init__(self) -> None:
        self._row: asyncio.Queue[Msg | None] = asyncio.Queue(1)

    async def put(self, msg: Msg) -> None:
        """Add a message; waits for the one before."""
        await self._row.put(msg)

    def nudge(self) -> None:
        """Have whoever waits look for itself: something may have been lost."""
        with suppress(asyncio.QueueFull):  # there is something to look at
            self._row.put_nowait(None)

    async def get(self, timeout_s: float) -> Msg | None:
        """The next message; None where none came for so long, or the connection was made again."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._row.get()
        except TimeoutError:
            return None


class Wire:
    """A connection, and the questions that every bus on NATS has in common."""

    def __init__(self, nats_: NatsClient, shown: str, prefix: str, patience: Patience, denials: Denials) -> None:
        self.nats = nats_
        self.shown = shown
        """The servers, without user and password."""
        self.prefix = prefix
        self.patience = patience
        self.denials = denials
        self._mailboxes: set[Mailbox] = set()

    @asynccontextmanager
    async def mailbox(self, *subjects: str) -> AsyncIterator[Mailbox]:
        """Listen to subjects while the block is open. Raises Lost."""
        box = Mailbox()
        subscriptions: list[Subscription] = []
        self._mailboxes.add(box)
        try:
            try:
                for subject in subjects:
                    subscriptions.append(await self.nats.subscribe(subject, cb=box.put, pending_bytes_limit=WAITING_BYTES))  # noqa: PERF401 - those made so far have to end
            except nats.errors.Error as error:
                raise Lost(f"can't listen for answers: {error}") from None
            yield box
        finally:
            self._mailboxes.discard(box)
            for subscription in subscriptions:
                with suppress(nats.errors.Error):  # the connection is gone, and the subscription with it
                    await subscription.unsubscribe()

    async def reconnected(self) -> None:
        """What was sent meanwhile is lost, so everybody asks."""
        for box in self._mailboxes:
            box.nudge()

    async def publish(self, subject: str, body: bytes, reply: str, headers: dict[str, str]) -> None:
        """Send. Raises Lost."""
        try:
            await self.nats.publish(subject, body, reply=reply, headers=headers)
        except nats.errors.Error as error:
            raise Lost(f"the job could not be sent: {error}") from None

    async def request(self, subject: str, body: bytes = b"", headers: dict[str, str] | None = None, timeout_s: float | None = None) -> Msg:
        """Ask a question. Raises Saturated where nobody answers, Lost without a connection, Denied and IngressError."""
        timeout_s = self.patience.answer_s if timeout_s is None else timeout_s
        try:
            async with self.denials.asking(subject):
                return await self.nats.request(subject, body, timeout=timeout_s, headers=headers or {"Accept": MSGPACK})
        except nats.errors.NoRespondersError:
            raise Saturated(f"no daemon listens on {subject}") from None
        except (nats.errors.TimeoutError, TimeoutError):
            if not self.nats.is_connected:
                raise Lost(f"{self.shown}: no connection for {timeout_s:g} s") from None
            raise Saturated(f"no answer on {subject} within {timeout_s:g} s") from None
        except nats.errors.Error as error:
            raise IngressError(f"{subject}: {error}") from None

    async def ask(self, tenant: str, job_id: str, verb: str) -> str | Result | None:
        """See `Bus.ask`: a daemon's answer."""
        msg = await self.request(f"{self.prefix}.ctl.{tenant}.{job_id}.{verb}")
        match header(msg, "Rd-Kind"):
            case "result":
                return decode_result(msg.data, header(msg, "Content-Type"))
            case "status":
                return header(msg, "Rd-Status")
        refused = read_refused(msg.data, header(msg, "Content-Type"))
        if refused.code == 404:
            return None
        raise refused.problem()

    async def feed(self, tenant: str, job_id: str, data: bytes, *, end: bool, timeout_s: float) -> None:
        """See `Bus.feed`."""
        await self._say(f"stdin.{tenant}.{job_id}", data, {"Rd-Eof": "1"} if end else {}, timeout_s)

    async def answer(self, tenant: str, job_id: str, call: str, answer: bytes, *, failed: bool) -> None:
        """See `Bus.answer`."""
        await self._say(f"tool.{tenant}.{job_id}.{call}", answer, {"Rd-Failed": "1"} if failed else {}, self.patience.answer_s)

    async def _say(self, subject: str, body: bytes, headers: dict[str, str], timeout_s: float) -> None:
        room = self.nats.max_payload - HEADER_BYTES
        if len(body) > room:
            raise OverLimit(f"{len(body)} bytes are more than a message of this bus takes, which are {room}")
        msg = await self.request(f"{self.prefix}.{subject}", body, {"Accept": MSGPACK, **headers}, timeout_s)
        if header(msg, "Rd-Kind") not in ("stdin", "answered"):
            raise read_refused(msg.data, header(msg, "Content-Type")).problem()

    async def languages(self) -> tuple[LanguageInfo, ...]:
        """See `Bus.languages`."""
        msg = await self.request(f"{self.prefix}.info.langs")
        decode = msgspec.msgpack.decode if header(msg, "Content-Type") == MSGPACK else msgspec.json.decode
        return decode(msg.data, type=tuple[LanguageInfo, ...])


def event_of(msg: Msg) -> Event | RunnerdError | None:
    """The event that a message is, or what is said in place of one; None where it says nothing."""
    if header(msg, "Rd-Kind") in _EVENTS:
        return decode_event(msg.data, header(msg, "Content-Type"))
    if header(msg, "Status") == "503":
        return Saturated("no daemon takes jobs of this language here: none runs, or all are full")
    return read_refused(msg.data, header(msg, "Content-Type")).problem() if msg.data else None


def header(msg: Msg, name: str) -> str:
    """A header of a message, empty where it has none of this name."""
    return (msg.headers or {}).get(name, "")


@asynccontextmanager
async def open_wire(url: str, access: Access, prefix: str, patience: Patience) -> AsyncGenerator[Wire]:
    """A connection while the block is open; `url` is one server or several with commas.

    Raises IngressError, naming the server and the cause.
    """
    client = NatsClient()
    wire = Wire(client, _PASSWORD.sub("//", url), prefix, patience, Denials(access.inbox_prefix or "_INBOX"))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(_close, client)
        await _connect(client, wire, url, patience.connect_s, access.given())
        yield wire


async def _close(client: NatsClient) -> None:
    with suppress(nats.errors.Error, OSError):  # the connection was lost before
        await client.close()


async def _connect(client: NatsClient, wire: Wire, url: str, connect_s: float, given: dict[str, Any]) -> None:
    urls = [part.strip() for part in url.split(",")]
    failures = 0
    connecting = True

    async def failed(error: Exception) -> None:
        """While connecting, each server has one try. Later, errors are the library's to mend."""
        nonlocal failures
        failures += 1
        if connecting and failures >= len(urls):
            raise error
        wire.denials.hear(error)

    options = {"name": "runnerd client", "max_reconnect_attempts": -1, "reconnect_time_wait": 0.25, "pending_size": _PENDING_BYTES, **given}
    try:
        async with asyncio.timeout(connect_s):
            await client.connect(urls, error_cb=failed, reconnected_cb=wire.reconnected, **options)
    except (nats.errors.Error, OSError, ValueError) as error:
        cause = f"no answer within {connect_s:g} s" if isinstance(error, TimeoutError) else f"no connection: {error}"
        raise IngressError(f"{wire.shown}: {cause}") from None
    finally:
        connecting = False
