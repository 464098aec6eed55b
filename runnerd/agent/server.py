"""The agent: takes connections, has the master make cells, and brings the two together."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from collections import deque
from typing import Any

from . import cgroup, landlock, linux
from .lease import Lease
from .loop import Loop
from .options import STRONG, Options
from .orders import BEAT_S, CONTROL, request_cell
from .podgroup import PodGroup
from .slot import BACKSTOP_S, OWN_KERNEL_BACKSTOP_S, Slot

BACKLOG = 128
"""Connections that wait to be accepted, and leases that wait for a cell."""
RETRY_S = 0.5
"""How long we wait before a failed master or cell is tried again."""
FAILURES = 5
"""After so many failures in a row the agent ends: its executor finds out why and starts another."""


class Master:
    """The agent's side of a master process: one request at a time, answered in order."""

    def __init__(self, loop: Loop, options: Options, server: Server) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ready = False
        self.control = ours
        self._loop = loop
        self._server = server
        self._asked: deque[tuple[Slot, socket.socket]] = deque()
        self.pid = self._start(options, theirs.fileno())
        theirs.close()
        ours.setblocking(False)
        loop.watch(ours.fileno(), lambda _: self._listen())

    def _start(self, options: Options, control: int) -> int:
        argv = [sys.executable, "-I", "-X", "utf8", sys.argv[0], "master", options.dump()]
        # What the libraries' functions are called by is looked up now, once, and not by each child when it first calls one: ld.so(8).
        return os.posix_spawn(sys.executable, argv, {"LD_BIND_NOW": "1"}, file_actions=[(os.POSIX_SPAWN_DUP2, control, CONTROL)])

    def ask(self, slot: Slot, watch: bool) -> None:
        """Have a cell made for a slot; `Server.made` or `Server.failed` follows."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        groups = slot.group.entries() if slot.group is not None else []
        try:
            request_cell(self.control, slot.number, watch, [theirs.fileno(), *groups])
            self._asked.append((slot, ours))
        except OSError as error:
            ours.close()
            self._server.failed(slot, str(error))
        finally:
            theirs.close()

    def close(self) -> None:
        """Let it end; its cells live on."""
        self._loop.unwatch(self.control.fileno())
        self.control.close()
        for slot, control in self._asked:
            control.close()
            self._server.failed(slot, "its master ended")
        self._asked.clear()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def _listen(self) -> None:
        try:
            message = self.control.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        answer: dict[str, Any] = json.loads(message) if message else {"error": "the master ended"}
        if answer.get("ready"):
            self.ready = True
            self._server.master_ready(self, answer)
        elif self._asked and self.ready and message:
            slot, control = self._asked.popleft()
            if "pid" in answer:
                slot.adopt(answer["pid"], control)
            else:
                control.close()
                self._server.failed(slot, answer["error"])
        else:
            self._server.master_failed(self, answer["error"])


class Server:
    """The agent's state: slots, connections that wait for one, and the master."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.loop = Loop()
        self._slots: dict[int, Slot] = {}
        self._idle: deque[Slot] = deque()
        self._waiting: deque[Lease] = deque()
        self._rebuilding: dict[Slot, Lease] = {}
        self._unmade: deque[Slot] = deque()
        self._making = 0
        self._failures = 0
        self._jobs = 0
        self._reasons: list[str] = []
        self._groups: cgroup.Backend | None = cgroup.find(self._reasons) if options.level == STRONG else None
        if options.level == STRONG and (self._groups is None or not {"memory", "processes"} <= set(self._groups.enforced)):
            say("failed", "no cgroups for memory and processes: " + "; ".join(self._reasons))
            sys.exit(3)
        linux.set_dumpable(False)
        self._master = self._new_master()
        self._next_master: Master | None = None
        self.description: dict[str, Any] = {}
        self.nests = False
        """Whether it can serve one job of a tenant after another in the same sandbox, each in a place of its own there."""

    def run(self) -> None:
        """Serve until SIGTERM, or until whoever started us is gone."""
        if os.getpid() != 1:
            linux.set_pdeathsig(signal.SIGTERM)
        with contextlib.suppress(OSError):  # gVisor, and a container that may not
            linux.shorten_slice()
        woken, wake = socket.socketpair()
        wake.setblocking(False)
        signal.set_wakeup_fd(wake.fileno())
        signal.signal(signal.SIGTERM, lambda *_: self._stop())
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.loop.watch(woken.fileno(), lambda _: _discard(woken))
        try:
            self.loop.run()
        finally:
            if self._groups is not None:
                self._groups.close()

    def _listen(self) -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.options.socket)
        os.chmod(self.options.socket, 0o600)
        listener.listen(BACKLOG)
        listener.setblocking(False)
        self.loop.watch(listener.fileno(), lambda _: self._accept(listener))
        os.set_blocking(sys.stdout.fileno(), False)
        self.loop.call_after(BEAT_S, self._beat)

    def _beat(self) -> None:
        """Show whoever started us that our loop turns."""
        say("", "")
        self.loop.call_after(BEAT_S, self._beat)

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return
        lease = Lease(self.loop, self, sock)
        if len(self._waiting) >= BACKLOG:
            lease.lose(f"{BACKLOG} leases wait for a cell already")
            return
        self._waiting.append(lease)
        self._match()

    # The master

    def master_ready(self, master: Master, answer: dict[str, Any]) -> None:
        """A master has everything imported."""
        self._failures = 0
        if master is self._next_master:
            self._next_master, old = None, self._master
            self._master = master
            old.close()
            self._jobs = 0
            for slot in list(self._idle):
                self._idle.remove(slot)
                slot.destroy()
            return
        if self.description:
            return
        enforced, missing = self._limits()
        self.description = {
            "level": self.options.level,
            "enforced": enforced,
            "missing": missing,
            "python": answer["python"],
            "tools": True,
        }
        self._listen()
        say("ready", json.dumps({**self.description, "reasons": self._reasons}))

    def master_failed(self, master: Master, error: str) -> None:
        """A master could not start, or ended. The first one tells what is wrong with this machine."""
        started = master.ready
        master.ready = False
        if master is self._next_master:
            self._next_master = None
            master.close()
            return
        say("master lost" if started else "failed", error)
        master.close()
        self._failures += 1
        if not started or self._failures > FAILURES:
            sys.exit(3)
        self._master = self._new_master()

    def _new_master(self) -> Master:
        return Master(self.loop, self.options, self)

    def _limits(self) -> tuple[list[str], list[str]]:
        """Limits that hold at this level, and those that do not."""
        enforced = ["wall", "cpu_time", "output", "open_files", "file_size"]
        enforced += self._groups.enforced if self._groups is not None else ["memory_watchdog"]
        if self.options.namespaced:
            enforced += ["workspace", "network"] + (["processes"] if "processes" not in enforced else [])
        else:
            enforced.append("workspace_watchdog")
            if landlock.abi() > 0 and self.options.level == "landlock":
                enforced.append("network")
        missing = [name for name in ("memory", "cpu", "processes", "workspace", "network") if name not in enforced]
        return enforced, missing

    # Slots

    def idle(self, slot: Slot) -> None:
        """A slot has a child ready: for whoever waits longest, else for later."""
        lease = self._rebuilding.pop(slot, None)
        if lease is not None:
            lease.give(slot)
        elif slot.master is not self._master:
            slot.destroy()
        else:
            self._idle.append(slot)
            self._match()

    def busy(self, slot: Slot) -> None:
        """A slot is for nobody until it has another child: else two would have it, now and once it is idle again."""
        if slot in self._idle:
            self._idle.remove(slot)

    def gone(self, slot: Slot, wanted: bool) -> None:
        """A slot's cell has ended: make it another, if anybody waits for one or it was meant to be replaced."""
        self.busy(slot)
        slot.user = None
        if not wanted:
            complain(f"cell {slot.number} ended by itself")
        self._make(slot)

    def rebuild(self, slot: Slot, lease: Lease) -> None:
        """Give a slot with another tenant's traces a new cell, for a lease that waits."""
        self._rebuilding[slot] = lease
        slot.user = None
        slot.destroy()

    def forget(self, lease: Lease) -> None:
        """A connection was closed."""
        with contextlib.suppress(ValueError):
            self._waiting.remove(lease)
        for slot, waiting in list(self._rebuilding.items()):
            if waiting is lease:
                del self._rebuilding[slot]

    def count_job(self) -> None:
        """A job starts. After so many of them another master takes over."""
        self._jobs += 1
        if self._jobs > self.options.recycle_jobs and self._next_master is None:
            self._next_master = self._new_master()

    def failed(self, slot: Slot, error: str) -> None:
        """A cell could not be made; try again in a while, and in the end give up as a whole."""
        self._failures += 1
        complain(f"cell {slot.number} could not be made: {error}")
        if self._failures > FAILURES:
            sys.exit(3)
        self.loop.call_after(RETRY_S, lambda: self._make(slot))

    def _match(self) -> None:
        """Bring those who wait and what is idle together; make more cells while there may be."""
        while self._waiting and self._idle:
            self._waiting.popleft().give(self._idle.popleft())
        for _ in range(len(self._waiting) - self._coming()):
            if len(self._slots) >= self.options.cells:
                break
            self._add_slot()

    def _add_slot(self) -> None:
        number = len(self._slots)
        backstop_s = OWN_KERNEL_BACKSTOP_S if self.options.own_kernel else BACKSTOP_S
        slot = Slot(self.loop, number, self._group(number), self, backstop_s)
        self._slots[number] = slot
        self._make(slot)

    def _group(self, number: int) -> cgroup.Group | PodGroup | None:
        return self._groups.group(f"cell-{number}") if self._groups is not None else None

    def _coming(self) -> int:
        """Slots that will be idle without anybody doing more."""
        return sum(1 for slot in self._slots.values() if slot.user is None and not slot.ready and slot not in self._rebuilding)

    def _make(self, slot: Slot) -> None:
        slot.master = self._master
        watch = slot.group is None or self._groups is None or "memory" not in self._groups.enforced
        self._master.ask(slot, watch)

    def _stop(self) -> None:
        self.loop.stopping = True


def say(word: str, text: str) -> None:
    """Tell the executor, in one line; in a pod, whoever reads its log."""
    with contextlib.suppress(BlockingIOError, BrokenPipeError):  # nobody reads: then there is enough to read, or nobody left
        sys.stdout.write(f"{word} {text}\n")
        sys.stdout.flush()


def complain(text: str) -> None:
    """Tell whoever reads the daemon's standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _discard(sock: socket.socket) -> None:
    sock.recv(64)
