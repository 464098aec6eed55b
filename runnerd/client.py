"""A client for programs: submits jobs over NATS, with the semantics of the bus.

    async with connect("nats://127.0.0.1:4222") as client:
        result = await client.run(Job(lang="py", code="print('hi')"))

Whatever a job's own fault is comes back as a Result. A job has an id before it is first sent; when an answer does not come,
the client asks what became of it and, where nobody knows it, sends it again under the same id. So it runs once.
"""

import asyncio
import random
import re
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, TypeVar

import msgspec
import nats.errors
from msgspec import Struct
from msgspec.structs import replace
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg

from .codec import MSGPACK, decode_event, decode_result, encode
from .errors import IngressError, RunnerdError, Saturated
from .job import TOKEN, Event, Job, Result, new_id

URL = "nats://127.0.0.1:4222"
"""Where `runnerd serve` listens without any configuration."""
WAITING_BYTES = 64 << 20
"""Bytes of output that may wait until a program takes them; what comes then is lost, but the result has it."""
HEADER_BYTES = 1024
"""More than the headers of a job, and what the server adds, take of a message."""

_PENDING_BYTES = 32 << 20
"""Bytes of jobs that may wait for the server."""
_LONGEST_PAUSE_S = 2.0
_EVENTS = ("result", "started", "out", "err")

_T = TypeVar("_T")
_PASSWORD = re.compile(r"//[^/@,]*@")


class LanguageInfo(Struct, frozen=True, kw_only=True):
    """A language that a daemon runs."""

    code: str
    name: str
    aliases: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    """File name endings, with their dot."""
    filename: str = ""


class Patience(Struct, frozen=True, kw_only=True):
    """How long a client waits, in seconds. None of it limits how long a job may run."""

    connect_s: float = 5.0
    """For the server to answer at first."""
    answer_s: float = 5.0
    """For the answer to a question."""
    silence_s: float = 10.0
    """Without news of a job, until it is asked for."""
    refused_s: float = 60.0
    """While no daemon takes the job, or knows it; then Saturated is raised."""
    pause_s: float = 0.1
    """Between two tries, at first; each is twice the one before, or what a daemon says, and none longer than 2 s."""


@asynccontextmanager
async def connect(
    url: str = URL,
    *,
    tenant: str = "default",
    prefix: str = "rd.v1",
    user: str = "",
    password: str = "",
    token: str = "",
    creds_file: str = "",
    tls: ssl.SSLContext | None = None,
    patience: Patience = Patience(),  # noqa: B008 - frozen
) -> AsyncGenerator["Client"]:
    """A client while the block is open. `url` is one server or several with commas.

    A lost connection is made again. Raises IngressError, naming the server and the cause.
    """
    options: dict[str, Any] = {"user": user, "password": password, "token": token, "user_credentials": creds_file, "tls": tls}
    given = {name: value for name, value in options.items() if value}
    bus = await _connect(url, patience.connect_s, given)
    try:
        yield Client(bus, tenant=tenant, prefix=prefix, patience=patience)
    finally:
        await bus.close()


def run(job: Job, url: str = URL, *, tenant: str = "default") -> Result:
    """Run one job and wait for its result, in a program that has no event loop. Raises what `connect` and `Client.run` raise."""

    async def once() -> Result:
        async with connect(url, tenant=tenant) as client:
            return await client.run(job)

    return asyncio.run(once())


class Client:
    """Submits jobs and asks about them; made by `connect`. Any number of jobs may be under way at once."""

    def __init__(self, bus: NatsClient, *, tenant: str, prefix: str, patience: Patience) -> None:
        self._bus = bus
        self._tenant = tenant
        self._prefix = prefix
        self._patience = patience
        self._codes: dict[str, str] | None = None

    async def run(self, job: Job) -> Result:
        """Run a job and return its result. Cancelling this does not cancel the job: see `cancel`.

        Raises Saturated where no daemon takes the job, RunnerdError where one failed to handle it.
        """
        async with aclosing(self._submit(job, stream=False)) as events:
            async for event in events:
                if isinstance(event, Result):
                    return event
        raise RunnerdError("the job's events ended without a result")

    def stream(self, job: Job) -> AsyncGenerator[Event]:
        """Run a job; its events come as they happen, its Result last. Raises what `run` raises.

        Events may be lost on the way, which a gap in `Output.seq` shows; the result has the whole output. Leaving the
        iterator does not cancel the job.
        """
        return self._submit(job, stream=True)

    async def cancel(self, job_id: str, tenant: str = "") -> Result | None:
        """Cancel a job and return its result, or an ended job's own; None where there is no such job."""
        answer = await self._ask_about(job_id, tenant, "cancel")
        return answer if isinstance(answer, Result) else None

    async def status(self, job_id: str, tenant: str = "") -> str | Result | None:
        """`queued`, `running`, the result of a job that ended, or None where there is no such job."""
        return await self._ask_about(job_id, tenant, "status")

    async def languages(self) -> tuple[LanguageInfo, ...]:
        """The languages of a daemon. Raises Saturated where no daemon answers."""
        msg = await self._request(f"{self._prefix}.info.langs")
        return _decode(msg, tuple[LanguageInfo, ...])

    async def _submit(self, job: Job, *, stream: bool) -> AsyncGenerator[Event]:
        job = await self._ready(job, stream=stream)
        body = encode(job, MSGPACK)
        problem = self._problem(job, body)
        if problem:
            yield Result(id=job.id, tenant=job.tenant, lang=job.lang, status="rejected", reason=problem)
            return
        inbox = self._bus.new_inbox()
        subscription = await self._bus.subscribe(inbox, pending_bytes_limit=WAITING_BYTES)
        submission = _Submission(
            patience=self._patience,
            receive=subscription.next_msg,
            send=lambda: self._send(job, body, inbox),
            ask=lambda: self.status(job.id, job.tenant),
        )
        try:
            async for event in submission.events():
                yield event
        finally:
            with suppress(nats.errors.Error):  # the connection is gone, and the subscription with it
                await subscription.unsubscribe()

    async def _ready(self, job: Job, *, stream: bool) -> Job:
        """The job with its id, its tenant, and its language's code."""
        lang = await self._code(job.lang)
        return replace(job, id=job.id or new_id(), tenant=job.tenant or self._tenant, lang=lang, stream=stream)

    async def _code(self, lang: str) -> str:
        """The code of a language that may be named by an alias. Unknown ones pass: the daemon has the word, and its list."""
        if self._codes is None:
            try:
                found = await self.languages()
            except Saturated:
                return lang
            self._codes = {name.lower(): language.code for language in found for name in (language.code, *language.aliases)}
        return self._codes.get(lang.lower(), lang)

    def _problem(self, job: Job, body: bytes) -> str:
        """Why the bus can't carry the job, empty where it can."""
        for field, token in (("lang", job.lang), ("tenant", job.tenant), ("id", job.id)):
            if not TOKEN.fullmatch(token):
                return f"{field}: {token[:80]!r} must match [A-Za-z0-9_-]{{1,64}}"
        most = self._bus.max_payload - HEADER_BYTES
        if len(body) > most:
            return f"the job has {len(body)} bytes, and at most {most} go into a message of this bus: send less code, input or files"
        return ""

    async def _send(self, job: Job, body: bytes, inbox: str) -> None:
        headers = {"Rd-Job-Id": job.id, "Content-Type": MSGPACK}
        if job.stream:
            headers["Rd-Stream"] = "reply"
        try:
            await self._bus.publish(f"{self._prefix}.run.{job.tenant}.{job.lang}", body, reply=inbox, headers=headers)
        except nats.errors.Error as error:
            raise IngressError(f"the job could not be sent: {error}") from None

    async def _ask_about(self, job_id: str, tenant: str, verb: str) -> str | Result | None:
        msg = await self._request(f"{self._prefix}.ctl.{tenant or self._tenant}.{job_id}.{verb}")
        match _header(msg, "Rd-Kind"):
            case "result":
                return decode_result(msg.data, _header(msg, "Content-Type"))
            case "status":
                return _header(msg, "Rd-Status")
        if _refused(msg).code == 404:
            return None
        raise _refusal(msg)

    async def _request(self, subject: str) -> Msg:
        """Ask a question. Raises Saturated where nobody answers."""
        try:
            return await self._bus.request(subject, b"", timeout=self._patience.answer_s, headers={"Accept": MSGPACK})
        except nats.errors.NoRespondersError:
            raise Saturated(f"no daemon listens on {subject}") from None
        except (nats.errors.TimeoutError, TimeoutError):
            raise Saturated(f"no answer on {subject} within {self._patience.answer_s:g} s") from None
        except nats.errors.Error as error:
            raise IngressError(f"{subject}: {error}") from None


class _Submission:
    """One job until its result: sends it, takes its events, and asks for it when they stop coming."""

    def __init__(
        self,
        *,
        patience: Patience,
        receive: Callable[[float], Awaitable[Msg]],
        send: Callable[[], Awaitable[None]],
        ask: Callable[[], Awaitable[str | Result | None]],
    ) -> None:
        self._patience = patience
        self._receive = receive
        self._send = send
        self._ask = ask
        self._alive()

    async def events(self) -> AsyncIterator[Event]:
        await self._send()
        while True:
            event = await self._next()
            if event is not None:
                self._alive()
                yield event
            if isinstance(event, Result):
                return

    async def _next(self) -> Event | None:
        """The next event; None where there is none yet, or where the job had to be sent again."""
        try:
            msg = await self._receive(self._patience.silence_s)
        except (nats.errors.TimeoutError, TimeoutError):
            return await self._inquire()
        except nats.errors.Error as error:
            raise IngressError(f"the connection ended before the job did: {error}") from None
        if _header(msg, "Rd-Kind") in _EVENTS:
            return decode_event(msg.data, _header(msg, "Content-Type"))
        if _header(msg, "Status") == "503":
            await self._again(Saturated("no daemon takes jobs of this language here: none runs, or all are full"))
        elif msg.data:
            refusal = _refusal(msg)
            if not isinstance(refusal, Saturated):
                raise refusal
            await self._again(refusal)
        return None

    async def _inquire(self) -> Event | None:
        """Ask what became of the job; where nobody knows it, it or its answer was lost."""
        try:
            known = await self._ask()
        except Saturated as error:
            await self._again(error)
            return None
        if isinstance(known, Result):
            return known
        if known is None:
            await self._again(Saturated("no daemon knows the job"))
        else:
            self._alive()
        return None

    def _alive(self) -> None:
        self._alive_at = time.monotonic()
        self._pause_s = self._patience.pause_s

    async def _again(self, error: Saturated) -> None:
        """Send the job again, after a pause. Raises `error` when that has gone on for too long."""
        if time.monotonic() - self._alive_at >= self._patience.refused_s:
            raise error
        pause_s = min(max(self._pause_s, error.retry_after_s), _LONGEST_PAUSE_S)
        await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads many clients, guards nothing
        self._pause_s *= 2
        await self._send()


class _Refused(Struct, frozen=True, kw_only=True):
    """The body of an answer that is no result."""

    error: str = "refused without a reason"
    code: int = 500
    retry_after_ms: float | None = None


def _refused(msg: Msg) -> _Refused:
    try:
        return _decode(msg, _Refused)
    except msgspec.DecodeError:
        return _Refused()


def _refusal(msg: Msg) -> RunnerdError:
    """What a daemon says instead of an answer: Saturated where trying again may help."""
    refused = _refused(msg)
    if refused.code == 503:
        return Saturated(refused.error, (refused.retry_after_ms or 0.0) / 1000)
    return RunnerdError(refused.error)


def _decode(msg: Msg, type_: type[_T]) -> _T:
    if _header(msg, "Content-Type") == MSGPACK:
        return msgspec.msgpack.decode(msg.data, type=type_)
    return msgspec.json.decode(msg.data, type=type_)


def _header(msg: Msg, name: str) -> str:
    return (msg.headers or {}).get(name, "")


async def _connect(url: str, connect_s: float, given: dict[str, Any]) -> NatsClient:
    urls = [part.strip() for part in url.split(",")]
    shown = _PASSWORD.sub("//", url)
    client = NatsClient()
    failures = 0
    connecting = True

    async def failed(error: Exception) -> None:
        """While connecting, each server has one try. Later, errors are the library's to mend."""
        nonlocal failures
        failures += 1
        if connecting and failures >= len(urls):
            raise error

    try:
        async with asyncio.timeout(connect_s):
            await client.connect(
                urls, name="runnerd client", error_cb=failed, max_reconnect_attempts=-1, pending_size=_PENDING_BYTES, **given
            )
    except (nats.errors.Error, OSError, ValueError) as error:
        connecting = False
        await client.close()
        cause = f"no answer within {connect_s:g} s" if isinstance(error, TimeoutError) else f"no connection: {error}"
        raise IngressError(f"{shown}: {cause}") from None
    connecting = False
    return client
