"""The agent of a pod: PID 1 of its container. It listens on a port, takes one lease in its life, and ends with it.

It runs in the interpreter that warm programs run in, where there are any. Its master is forked from it, and becomes its one cell:
for each pod one interpreter has to start.

The lease is for one job, unless that asks for the sandbox to be kept: see lease.py. Of a tenant's jobs one after the other each is
confined by itself, as the only one would be; none is taken where Landlock can't keep it from all that outlives it (ABI 6).

A connection has to prove itself before it is a lease. The agent knows only the SHA-256 of the pod's secret, so there is nothing
in the pod, not even in the agent's memory, that a job could find and use before the one connection was made; and the agent
proves that it knows that hash, which nobody does who only got the pod's address.

    to the agent                     from the agent
    hello {nonce}                    hello {proof}      HMAC-SHA256 of the nonce, with the hash as its key
    prove {secret}                   ready, see frames.py; or lost {reason}
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import socket
import sys
from typing import NoReturn

from . import forks, landlock, linux
from .frames import FrameError, Header, Unpacker, pack
from .lease import Lease
from .options import Options
from .orders import CONTROL
from .podgroup import PodGroup
from .server import BACKLOG, Master, Server, complain, say
from .slot import Slot, Tenant

VARIABLE = "RUNNERD_AGENT"
"""Carries the options as JSON."""
VISITORS = 16
"""Connections that have not proven themselves, at once."""
PROVE_S = 5.0
"""How long one may take for it."""
TELL_S = 5.0
"""How long the lease has to hear that the cell is lost."""
PROVE_BYTES = 2048
"""How much it may send for it."""
OURS = ("RUNNERD_", "KUBERNETES_")


def listen(port: int) -> socket.socket:
    """A listener on all addresses, of both families where the pod has them."""
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True)
        except OSError:  # built in, and switched off
            pass
    return socket.create_server(("", port), backlog=BACKLOG)


def main() -> None:
    """Be the agent of this pod."""
    options = read_options()
    if os.getpid() != 1:
        say("failed", f"the agent has to be PID 1 of its container, and is {os.getpid()}")
        sys.exit(3)
    linux.set_dumpable(False)
    # Before anything that takes time: who connects now is answered later.
    door = listen(options.port) if options.port else take_connection()
    server = PodServer(options, door)
    server.run()
    os._exit(3 if server.broken else 0)  # the container ends with it: to take the interpreter apart first would cost more than its start


def take_connection() -> socket.socket:
    """The connection that we were started with as standard input, which nobody else gets."""
    connection = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return connection


def read_options() -> Options:
    """The options, with what can only be told inside of the container; its variables are gone then."""
    options = Options.parse(os.environ[VARIABLE])
    env = {name: value for name, value in os.environ.items() if not name.startswith(OURS) and name not in ("HOSTNAME", "HOME")}
    linux.wipe_environment()
    return options.changed(env=env)


class PodMaster(Master):
    """A master that is forked from the agent, before that knows anything which a job must not, and becomes the one cell."""

    def _start(self, options: Options, control: int) -> int:
        pid = forks.fork()
        if pid == 0:
            _be_master(options, control)
        return pid

    def close(self) -> None:
        """Ask it nothing more: what it is now is the slot's."""
        self._loop.unwatch(self.control.fileno())
        self.control.close()

    def _listen(self) -> None:
        super()._listen()
        if self.ready and not self._asked:
            self.close()


def _be_master(options: Options, control: int) -> NoReturn:
    try:
        os.dup2(control, CONTROL)
        linux.close_range(CONTROL + 1)
        linux.set_dumpable(True)  # it looks at its own pages, and there is no job yet
        from . import master  # noqa: PLC0415 - the agent has no use for it

        master.main(options)
    except BaseException as error:  # noqa: BLE001 - nothing is above us: the agent sees us end
        complain(f"master: {type(error).__name__}: {error}")
    finally:
        os._exit(0)


class PodServer(Server):
    """The agent's state, for one cell and one lease."""

    def __init__(self, options: Options, door: socket.socket) -> None:
        self.proof = bytes.fromhex(options.proof)
        self.refused = 0
        """Connections that could not prove themselves, or came too late."""
        self.leased = False
        self.broken = False
        """Whether no sandbox could be made."""
        self._door = door
        """A listener; where there is no port, the one connection, whose other end nobody has who need prove himself."""
        self._visitors = 0
        self._podgroup = PodGroup()
        super().__init__(options.changed(proof=""))
        self.nests = options.nested and landlock.abi() >= landlock.ABI_SCOPES
        self.loop.call_after(options.unclaimed_s, self._unclaimed)

    def _listen(self) -> None:
        """The master is ready: have the cell made, and answer those who call."""
        self.description["nests"] = self.nests
        self._add_slot()
        self._door.setblocking(False)
        if self.options.port:
            self.loop.watch(self._door.fileno(), lambda _: self._accept(self._door))
        else:
            self.proven(self._door)

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        sock.setblocking(False)
        if self.leased:
            self.refuse(sock, "leased")
        elif self._visitors >= VISITORS:
            self.refuse(sock, "too many connections that prove nothing")
        else:
            self._visitors += 1
            Visitor(self, sock)

    def _unclaimed(self) -> None:
        if not self.leased:
            say("failed", f"nobody took the lease within {self.options.unclaimed_s:g} s")
            self.broken = True
            self._stop()

    def refuse(self, sock: socket.socket, reason: str) -> None:
        """Tell a connection why it gets nothing, and close it."""
        self.refused += 1
        complain(f"refused connection {self.refused}: {reason}")
        with contextlib.suppress(OSError):
            sock.send(pack({"type": "lost", "reason": reason}))
        sock.close()

    def proven(self, sock: socket.socket) -> None:
        """A connection is the one lease."""
        self.leased = True
        self._waiting.append(PodLease(self.loop, self, sock))
        self._match()

    def visited(self) -> None:
        """A visitor has left, or become the lease."""
        self._visitors -= 1

    # What the server does otherwise elsewhere

    def _new_master(self) -> Master:
        return PodMaster(self.loop, self.options, self)

    def _group(self, number: int) -> PodGroup:  # noqa: ARG002 - there is one
        return self._podgroup

    def _limits(self) -> tuple[list[str], list[str]]:
        held = self._podgroup.enforced
        enforced = ["wall", "cpu_time", "output", "open_files", "file_size", "processes", "network", *held]
        if "memory" not in held:
            enforced.append("memory_watchdog")
        if self.options.files_in_memory:
            enforced.append("workspace")
        return enforced, [name for name in ("memory", "cpu", "workspace") if name not in enforced]

    def master_failed(self, master: Master, error: str) -> None:  # noqa: ARG002 - whichever it is, there is no second one
        """It could not start, or has ended before the cell was made."""
        say("failed", error)
        self.broken = True
        self._stop()

    def failed(self, slot: Slot, error: str) -> None:  # noqa: ARG002
        """The cell could not be made: another pod may do better."""
        self.master_failed(self._master, error)

    def gone(self, slot: Slot, wanted: bool) -> None:  # noqa: ARG002
        """The cell has ended, and with it the pod's use; once the lease has been told, everything does."""
        complain("the cell ended")
        self.loop.call_after(TELL_S if self.leased else 0, self._stop)

    def forget(self, lease: Lease) -> None:
        """The lease was given back."""
        super().forget(lease)
        self._stop()

    def count_job(self) -> None:
        """There is one."""


class PodLease(Lease):
    """The one lease. When its job is over nothing is made ready for another; the executor hangs up, and all ends."""

    def lose(self, reason: str) -> None:
        """There is no other slot: everything ends, once the executor has been told."""
        super().lose(reason)
        self._loop.call_after(TELL_S, lambda: self._server.forget(self))

    def over(self) -> None:
        """The job is over."""
        if self._kept():
            return
        if self._slot is not None:
            self._slot.user = _Nobody()
        self._slot = self._run = None
        self._await_end()


class _Nobody(Tenant):
    """The slot's user after the job: nothing matters to it."""


class Visitor:
    """A connection that has yet to prove itself."""

    def __init__(self, server: PodServer, sock: socket.socket) -> None:
        self._server = server
        self._sock = sock
        self._unpacker = Unpacker()
        self._received = 0
        self._timer = server.loop.call_after(PROVE_S, lambda: self._refuse("it did not prove itself in time"))
        server.loop.watch(sock.fileno(), lambda _: self._readable())

    def _readable(self) -> None:
        try:
            data = self._sock.recv(PROVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._received += len(data)
        if not data or self._received > PROVE_BYTES:
            self._refuse("it hung up" if not data else "it sent too much")
            return
        try:
            for header, _ in self._unpacker.feed(data):
                if self._frame(header):
                    return
        except (FrameError, KeyError, TypeError, ValueError, OSError):
            self._refuse("it sent nonsense")

    def _frame(self, header: Header) -> bool:
        """Take a frame; returns whether the visit is over."""
        if header["type"] == "hello":
            proof = hmac.new(self._server.proof, bytes.fromhex(header["nonce"]), hashlib.sha256).hexdigest()
            self._sock.send(pack({"type": "hello", "proof": proof}))
            return False
        told = hashlib.sha256(bytes.fromhex(header["secret"])).digest()
        if header["type"] != "prove" or not hmac.compare_digest(told, self._server.proof):
            self._refuse("wrong secret")
        elif self._server.leased:
            self._refuse("leased")
        else:
            self._leave()
            self._server.proven(self._sock)
        return True

    def _refuse(self, reason: str) -> None:
        self._leave()
        self._server.refuse(self._sock, reason)

    def _leave(self) -> None:
        self._timer.cancel()
        self._server.loop.unwatch(self._sock.fileno())
        self._server.visited()
