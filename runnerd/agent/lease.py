"""One connection: one lease of one sandbox, from the moment it is wanted until it is closed."""

from __future__ import annotations

import socket
import time
from collections import deque
from typing import TYPE_CHECKING

from .frames import FrameError, Header, Unpacker, begin
from .lasting import LastingRun, NestedRun, Remains
from .loop import Channel, Loop
from .run import Run
from .slot import Slot, Tenant

if TYPE_CHECKING:
    from .server import Server

SESSION, TENANT = "session", "tenant"
"""For whom a job asks the sandbox to be kept: its session, with all that the next job can use; its tenant, with nothing in it."""
HELD = ("loaded", "started", "output", "ended", "taken", "state", "file", "skipped")
"""Frames that may wait for the next one."""
PENDING_FRAMES = 64
"""Frames kept while the cell is rebuilt for another tenant; then the executor has to wait."""


class Lease:
    """A connection of the executor. It gets a slot, says so, takes one job and ends.

    A job may ask that its sandbox is kept (`keep`): where that could be done, `done` says so, and the next job of its session,
    or its tenant, can come on the same connection.
    """

    def __init__(self, loop: Loop, server: Server, sock: socket.socket) -> None:
        self._loop = loop
        self._server = server
        self._unpacker = Unpacker()
        self._pending: deque[tuple[Header, bytes]] = deque()
        self._slot: Slot | None = None
        self._run: Run | None = None
        self._request: Header | None = None
        self._remains: Remains | None = None
        """What the last job has left standing for the next one of its session."""
        self._serves = False
        """Whether it has served a job, and is kept for others."""
        self._asked = 0.0
        self._made_wait = False
        self._over = False
        """Whether there is no more to say."""
        fds = 1 if sock.family == socket.AF_UNIX else 0
        self._channel = Channel(loop, sock, self._data, self._closed, self._has_room, fds)

    def give(self, slot: Slot) -> None:
        """Take a slot with a child ready."""
        self._slot = slot
        if self._request is None:
            slot.user = _Waiting(self, slot)
            self.emit({"type": "ready", "tenant": slot.tenant, "tmp": self._server.options.tmp(slot.number), **self._server.description})
        else:
            self._start(slot, self._request)

    def lose(self, reason: str) -> None:
        """The slot has gone."""
        self._slot = None
        self.emit({"type": "lost", "reason": reason})
        self._channel.close_when_empty()

    def ready(self) -> None:
        """What the last job has left is ready for the next one."""
        if self._slot is not None and self._request is not None:
            self._start(self._slot, self._request)

    def _data(self, data: bytes) -> None:
        try:
            for header, body in self._unpacker.feed(data):
                self._frame(header, body)
        except (FrameError, KeyError, TypeError, ValueError) as error:
            self.emit({"type": "lost", "reason": f"the agent did not understand a frame: {error!r}"})
            self._channel.close()
            self._closed()

    def _frame(self, header: Header, body: bytes) -> None:
        kind = header["type"]
        if kind == "run":
            self._take(header)
        elif self._over or self._request is None:
            pass  # it comes late: its job is over
        elif self._run is None:
            self._pending.append((header, body))
            self._channel.pause(len(self._pending) > PENDING_FRAMES)
        else:
            self._feed(header, body)

    def _take(self, request: Header) -> None:
        slot = self._slot
        if slot is None or self._request is not None:
            raise ValueError("a lease takes one job, once it is ready")
        if _hands_over(request) and not self._channel.fds:
            raise ValueError("the memory for snapshots did not come along")
        self._request = request
        self._asked = time.monotonic()
        if self._serves:
            if slot.tenant != request["tenant"]:
                raise ValueError("what is kept is another tenant's")
            if isinstance(slot.user, _Keeping) and slot.user.ready:
                self._start(slot, request)
        elif slot.tenant in ("", request["tenant"]):
            self._start(slot, request)
        else:
            self._slot = None
            self._server.rebuild(slot, self)

    def _start(self, slot: Slot, request: Header) -> None:
        slot.tenant = request["tenant"]
        if _hands_over(request):
            request["state"]["slate"] = self._channel.fds.pop(0)
        if request.get("keep") == SESSION:
            run: Run = LastingRun(self._loop, self._server.options, slot, request, self, self._asked, self._remains)
        else:
            nested = request.get("keep") == TENANT and self._server.nests
            run = (NestedRun if nested else Run)(self._loop, self._server.options, slot, request, self, self._asked)
        self._run = slot.user = run
        self._server.count_job()
        run.start()
        while self._pending:
            self._feed(*self._pending.popleft())
        self._channel.pause(False)

    def _feed(self, header: Header, body: bytes) -> None:
        run = self._run
        assert run is not None
        if header["type"] == "file":
            run.file(header, body)
        elif header["type"] == "state":
            run.state(header, body)
        else:
            run.pipes.take(header, body)
        self.child_room()

    def child_room(self) -> None:
        """Read from the executor as fast as the child reads."""
        slot, run = self._slot, self._run
        if slot is not None and run is not None:
            self._channel.pause(slot.child_full or run.pipes.full)

    def emit(self, header: Header, body: bytes = b"") -> None:
        """Send a frame to the executor; the job's output waits while it does not read."""
        run = self._run  # where nobody listens live, a short job's frames go out together: each write wakes the executor
        hold = run is not None and not run.stream and header["type"] in HELD
        self._channel.write(begin(header, len(body)), hold)
        self._channel.write(body, hold)
        if self._channel.full and self._slot is not None:
            self._made_wait = True
            self._slot.pause_output(True)

    @property
    def full(self) -> bool:
        """Whether the executor has more to read than is good."""
        return self._channel.full

    def _has_room(self) -> None:
        if self._slot is not None:
            self._slot.pause_output(False)
        if self._run is not None:
            self._run.executor_room()

    def made_wait(self) -> bool:
        """Whether the executor has made us wait, since this was last asked or now."""
        made, self._made_wait = self._made_wait or self._channel.full, False
        return made

    def over(self) -> None:
        """The job is over: leave the slot to renew itself."""
        if self._kept():
            return
        slot, self._slot, self._run = self._slot, None, None
        if slot is not None:
            slot.user = None
            if slot.child_over:
                slot.fork(renew=True)
        self._await_end()

    def _await_end(self) -> None:
        """The executor hangs up, and not we: input that it still sends would break the connection, and cost it the result."""
        self._over = True
        self._pending.clear()
        self._channel.pause(False)

    def _kept(self) -> bool:
        """Keep what the job has left, where it has; returns whether."""
        run, slot = self._run, self._slot
        if slot is None:
            return False
        if isinstance(run, LastingRun):
            self._remains, self._serves = run.remains, run.remains is not None
        else:
            self._serves = isinstance(run, NestedRun) and run.kept
        if not self._serves:
            return False
        self._run = self._request = None
        self._pending.clear()
        self._channel.pause(False)
        slot.user = _Keeping(self, slot, self._remains)
        return True

    def _closed(self) -> None:
        """The executor has hung up: whatever runs for it ends."""
        self._server.forget(self)
        run, slot = self._run, self._slot
        if run is not None:
            self._slot = self._run = None
            run.abandon()
        elif slot is not None:
            self._slot = None
            slot.user = None
            if self._serves:
                renew(slot)
            else:
                self._server.idle(slot)


def _hands_over(request: Header) -> bool:
    """Whether the executor has sent memory for snapshots along."""
    return bool(request.get("state", {}).get("shared"))


def renew(slot: Slot) -> None:
    """Have a slot that nobody uses any more made as it was before its first job."""
    slot.user = None
    if slot.child_over:
        slot.fork(renew=True)
    else:
        slot.kill()


class _Keeping(Tenant):
    """A slot's user between two jobs of a session or tenant: what anybody says without a job is ignored.

    It has a child forked in what the last one left, unless an interpreter sleeps there; or, where nothing remains, when all is renewed.
    """

    def __init__(self, lease: Lease, slot: Slot, remains: Remains | None) -> None:
        self._lease = lease
        self._slot = slot
        self._renew = remains is None
        self._asleep = remains is not None and remains.asleep
        self._forked = False
        if slot.child_over:
            self._go_on()

    @property
    def ready(self) -> bool:
        """Whether the next job can begin."""
        return self._slot.child_over if self._asleep else self._forked and self._slot.ready

    def _go_on(self) -> None:
        if not self._asleep:
            self._forked = True
            self._slot.fork(renew=self._renew)

    def child_ready(self) -> None:
        """The next child waits for its request."""
        self._lease.ready()

    def child_ended(self, status: int, cpu_ns: int, memory: int, only_file: str) -> None:  # noqa: ARG002
        """The last child has ended: the next one can come."""
        if self._forked:
            self._lease.lose(f"its standby child ended (wait status {status})")
            renew(self._slot)
        elif self._asleep:
            self._lease.ready()
        else:
            self._go_on()

    def sleeper_lost(self) -> None:
        """The interpreter has ended, and with it what the next job was to find."""
        self._lease.lose("its interpreter ended while it waited for the next job")
        renew(self._slot)

    def cell_lost(self, reason: str) -> None:
        """The cell died meanwhile."""
        self._lease.lose(reason)


class _Waiting(Tenant):
    """A slot's user while no job has come: everything but its loss is ignored."""

    def __init__(self, lease: Lease, slot: Slot) -> None:
        self._lease = lease
        self._slot = slot

    def child_ended(self, status: int, cpu_ns: int, memory: int, only_file: str) -> None:  # noqa: ARG002
        """The child died while it waited."""
        self._lease.lose(f"its standby child ended (wait status {status})")
        renew(self._slot)

    def cell_lost(self, reason: str) -> None:
        """The cell died while it waited."""
        self._lease.lose(reason)
