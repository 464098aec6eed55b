"""A job in hand: who listens to it, and how it is stopped. From its arrival until its result is recorded."""

import asyncio
from collections import deque
from typing import Literal

from .errors import Interrupted
from .job import Event, Job, Output, Result, Status, ToolCall, Usage
from .record import Entry
from .stdin import Stdin
from .tools import Tools
from .workspace import Visit

Cause = Literal["cancelled", "interrupted"]
CANCELLED = "cancelled by its submitter"


class Listener:
    """One who waits for a job: gets its events where it asked to stream, and its end in any case."""

    def __init__(self, stream: bool, most: int, calls: int = 0) -> None:
        """`most`: pieces of output that wait for it. `calls`: calls of tools that do; 0: it does not care for them."""
        self.dropped = 0
        """Pieces of output that it was too slow for; the gaps show in `Output.seq`, and the result has all of the output."""
        self._events: deque[Event] = deque()
        self._stream = stream
        self._most = most
        self._calls = calls
        self._wake = asyncio.Event()

    def tell(self, event: Event) -> bool:
        """Pass an event on, where it has room for it. A listener that is slow loses output; it never slows the job."""
        if isinstance(event, ToolCall):
            return self._call(event)
        if not self._stream:
            return False
        if len(self._events) >= self._most and isinstance(event, Output):
            self.dropped += 1
            return False
        self._events.append(event)
        self._wake.set()
        return True

    def _call(self, call: ToolCall) -> bool:
        if not self._calls:
            return False
        self._calls -= 1
        self._events.append(call)
        self._wake.set()
        return True

    def end(self) -> None:
        """Nothing more will come."""
        self._wake.set()

    async def next(self, job: "InHand") -> Event:
        """The next event; the last one is the result. Raises what the job was given back with."""
        while not self._events:
            if job.ended:
                if job.result is None:
                    raise job.error
                return job.result
            self._wake.clear()
            await self._wake.wait()
        event = self._events.popleft()
        self._calls += isinstance(event, ToolCall)
        return event


class InHand:
    """A job between its arrival and its end."""

    def __init__(self, job: Job, owned: bool, now: float, *, kept: bool = False) -> None:
        self.job = job
        self.key = (job.tenant, job.id)
        self.owned = owned
        """Whether the caller gave the id, so that a record decides."""
        self.kept = kept
        """Whether it can be given back where no sandbox is free, see `Delivery.kept`."""
        self.state: Literal["queued", "running"] = "queued"
        self.arrived = now
        self.queued_ms = 0.0
        self.starts = 0
        """How often it was started, by other daemons too where a record counts."""
        self.started = False
        """Whether it was started here, and how it ended is this daemon's to say."""
        self.entry: Entry | None = None
        self.stdin: Stdin | None = None
        """What more is sent to its standard input, where it is interactive."""
        self.tools: Tools | None = None
        """The tools that it may call, where it names some."""
        self.visit: Visit | None = None
        """Its time in its session, from when it has that."""
        self.cause: Cause | None = None
        """Why it is to be stopped."""
        self.result: Result | None = None
        self.error: Exception = Interrupted("the daemon stopped before the job ended")
        self.ended = False
        self._task: asyncio.Task[None] | None = None
        self._decided = False
        self._listeners: set[Listener] = set()
        self._deserted = False

    def listen(self, stream: bool, most: int) -> Listener:
        """A new listener; `most` pieces of output wait for it. It hears of calls that wait for an answer."""
        tools = self.tools if most else None
        listener = Listener(stream, most, tools.settings.open if tools else 0)
        for call in tools.waiting() if tools else ():
            listener.tell(call)
        self._listeners.add(listener)
        return listener

    def leave(self, listener: Listener) -> None:
        """A listener goes, and the job is to go on even if nobody listens."""
        self._listeners.discard(listener)
        self._deserted = True

    def desert(self, listener: Listener, cause: Cause) -> None:
        """A listener's task was cancelled: the job stops, unless others wait for it."""
        self._listeners.discard(listener)
        if not self._listeners and not self._deserted:
            self.stop(cause)

    def begin(self) -> None:
        """Called by the task that carries the job, first of all."""
        self._task = asyncio.current_task()

    def decide(self, decided: bool = True) -> None:
        """How the job ends is known; from now on nothing stops it. False: what was known is void."""
        self._decided = decided

    def stop(self, cause: Cause) -> None:
        """Have the job end with `cause`, unless it is decided already how it ends."""
        if self._decided or self.cause is not None:
            return
        self.cause = cause
        if self._task is not None:  # else its task has not begun, and sees the cause when it does
            self._task.cancel()

    def tell(self, event: Event) -> None:
        """Pass an event on to all who stream. A call that nobody hears is answered here."""
        heard = [listener.tell(event) for listener in self._listeners]
        if isinstance(event, ToolCall) and self.tools is not None and not any(heard):
            self.tools.fail(event.call, "nobody hears it: whoever submitted the job is gone, or too slow")

    def end(self, result: Result | None, error: Exception | None = None) -> None:
        """The end, with a result or given back."""
        self.result = result
        if error is not None:
            self.error = error
        self.ended = True
        for listener in self._listeners:
            listener.end()

    def closing(self, status: Status, reason: str) -> Result:
        """A result that says how the job ended without its program's doing."""
        job = self.job
        usage = Usage(queued_ms=self.queued_ms)
        return Result(id=job.id, tenant=job.tenant, lang=job.lang, status=status, reason=reason, starts=self.starts, usage=usage)

    async def over(self) -> Result:
        """Wait for the result. Raises what the job was given back with."""
        listener = self.listen(stream=False, most=0)
        try:
            await listener.next(self)
        finally:
            self._listeners.discard(listener)
        assert self.result is not None
        return self.result
