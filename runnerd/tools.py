"""The tools that a job may call while it runs: its calls on their way to whoever answers, and the answers on their way back.

A call is a line of JSON that the program wrote, and so is an answer that it reads. Neither arguments nor results are ever made
into objects here: they are checked, and passed on as text.
"""

import asyncio
from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta, Raw, Struct

from .errors import Conflict, OverLimit, Rejected
from .job import Job, ToolCall

ID_BYTES = 128
"""Longest id that a program may give a call of its."""
_NONE = Raw(b"null")


class ToolSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much a job may ask of whoever submitted it, where it names tools."""

    calls: Annotated[int, Meta(ge=1, le=1_000_000)] = 1000
    """Calls of one job in all."""
    open: Annotated[int, Meta(ge=1, le=10_000)] = 32
    """Calls of one job that wait for their answers at once. Its program waits with the next."""
    bytes: Annotated[int, Meta(ge=1024, le=64 << 20)] = 1 << 20
    """Bytes of one call, and of one answer. What a message of a bus takes is the bus's limit."""
    answer_s: Annotated[float, Meta(gt=0, le=86_400)] = 60.0
    """How long a call waits for its answer, in seconds; then the program gets an error."""
    wait_s: Annotated[float, Meta(ge=0, le=604_800)] = 600.0
    """How long a job may wait for answers in all, in seconds, while its wall time stands still."""


class _Line(Struct):
    """What a program writes."""

    name: str
    id: Raw = _NONE
    arguments: Raw = Raw(b"{}")


class _Open(Struct):
    """A call that waits for its answer."""

    call: ToolCall
    id: bytes
    """The program's own, as it wrote it."""
    deadline: asyncio.TimerHandle


class NoCall(Exception):
    """What a program wrote is no call that it may make; the text says why, for the program."""

    def __init__(self, reason: str, own_id: bytes = b"null") -> None:
        super().__init__(reason)
        self.own_id = own_id


class Tools:
    """The calls of one job."""

    def __init__(self, job: Job, settings: ToolSettings) -> None:
        self.settings = settings
        self._job = job
        self._line = bytearray()
        self._count = 0
        self._open: dict[str, _Open] = {}
        self._write: Callable[[bytes], None] = lambda _: None

    def open(self, write: Callable[[bytes], None]) -> None:
        """The job has started: `write` passes a line on to its program."""
        self._write = write
        self._line.clear()

    def close(self) -> None:
        """The program has ended: nobody waits for answers."""
        for waiting in self._open.values():
            waiting.deadline.cancel()
        self._open.clear()
        self._write = lambda _: None

    def waiting(self) -> list[ToolCall]:
        """Calls that wait for their answers, the oldest first."""
        return [waiting.call for waiting in self._open.values()]

    def heard(self, piece: bytes, *, more: bool = False, cut: bool = False) -> ToolCall | None:
        """Take a piece of a line, `more` of which follows; `cut`: it was longer than it may be.

        Returns the call that the whole line is. What is none is answered at once.
        """
        self._line += piece
        if more:
            return None
        line, self._line = bytes(self._line), bytearray()
        if cut:
            self._write(_failure(b"null", f"a call is a line of at most {self.settings.bytes} bytes (tools.bytes)"))
            return None
        try:
            name, arguments, own_id = read_call(line, self._job.tools)
        except NoCall as problem:
            self._write(_failure(problem.own_id, str(problem)))
            return None
        self._count += 1
        call = ToolCall(id=self._job.id, tenant=self._job.tenant, call=str(self._count), name=name, arguments=arguments)
        deadline = asyncio.get_running_loop().call_later(self.settings.answer_s, self._expire, call.call)
        self._open[call.call] = _Open(call, own_id, deadline)
        return call

    def answer(self, call: str, answer: bytes, *, failed: bool = False) -> None:
        """Answer a call: with a result, as JSON, or where it `failed` with a text that says why.

        Raises Conflict where no such call waits, OverLimit and Rejected where the answer can't be passed on; the call waits on then.
        """
        if call not in self._open:
            raise Conflict(f"call {call[:80]!r} of the job waits for no answer: it has one, or its time was over, or it never was made")
        if len(answer) > self.settings.bytes:
            raise OverLimit(f"an answer may have {self.settings.bytes} bytes, this one has {len(answer)}: raise the setting tools.bytes")
        own_id = self._open[call].id
        line = _failure(own_id, answer.decode(errors="replace")) if failed else _success(own_id, answer)
        self._open.pop(call).deadline.cancel()
        self._write(line)

    def fail(self, call: str, reason: str) -> None:
        """Answer a call that nobody else can; nothing happens where it has its answer."""
        if call in self._open:
            self.answer(call, reason.encode(errors="replace")[: self.settings.bytes], failed=True)

    def _expire(self, call: str) -> None:
        self.fail(call, f"nobody answered within {self.settings.answer_s:g} s (tools.answer_s)")


def read_call(line: bytes, tools: tuple[str, ...]) -> tuple[str, str, bytes]:
    """Name, arguments (JSON) and the program's own id of a call. Raises NoCall."""
    try:
        read = _LINES.decode(line)
        arguments = bytes(read.arguments).decode()
        own_id = bytes(read.id)
        own_id.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NoCall(f'not a call, which is a line like {{"id": 1, "name": "…", "arguments": {{}}}}: {error}') from None
    if own_id[:1] in b"{[" or len(own_id) > ID_BYTES:
        raise NoCall(f"id: must be a number or a text of at most {ID_BYTES} bytes")
    if not arguments.startswith("{"):
        raise NoCall("arguments: must be an object", own_id)
    if read.name not in tools:
        raise NoCall(f"there is no tool {read.name[:80]!r} for this job: there are {', '.join(tools)[:500]}", own_id)
    return read.name, arguments, own_id


_LINES = msgspec.json.Decoder(_Line)


def _success(own_id: bytes, result: bytes) -> bytes:
    try:
        checked = bytes(msgspec.json.decode(result, type=Raw))
        checked.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Rejected(f"the answer is no JSON: {error}: a text is JSON with quotes around it") from None
    # JSON has line breaks only between its tokens
    return b'{"id":%b,"result":%b}\n' % (own_id, checked.replace(b"\n", b" ").replace(b"\r", b" "))


def _failure(own_id: bytes, reason: str) -> bytes:
    return b'{"id":%b,"error":%b}\n' % (own_id, msgspec.json.encode(reason))
