"""The agent's side of one cell: its control socket, its standby child, and that child's pipes."""

from __future__ import annotations

import array
import contextlib
import errno
import os
import signal
import socket
from collections.abc import Sequence
from typing import Protocol

from . import linux
from .cgroup import Group
from .ends import SAID, Ends
from .frames import Header
from .loop import Loop, Timer
from .orders import ENDED, KILLED, WATCHED
from .podgroup import PodGroup

OWN_PROCESSES = 1
"""The cell's PID 1 is in the same cgroup as the job."""
ALONE = 2
"""What a cgroup counts where there are only PID 1 and the child, with one thread."""
BACKSTOP_S, OWN_KERNEL_BACKSTOP_S = 1.0, 10.0
"""A cell that has not ended its processes so long after it was told to is killed as a whole. A kernel in user space takes longer."""
SLEEP_S = 5.0
"""And one that has not stopped its child, which ends no job and so may take longer."""


class Tenant:
    """What a slot tells whoever uses it, and who ignores what does not concern it."""

    def child_ready(self) -> None:
        """A fresh child waits for its request."""

    def child_said(self, header: Header, body: bytes) -> None:
        """A frame of the child, to be believed no more than the job itself."""

    def output(self, stream: str, data: bytes) -> None:
        """The child, or what it started, wrote something."""

    def killed(self, cpu_ns: int, memory: int, only_file: str) -> None:
        """Everything in the cell was told to die; no instruction of the job runs any more.

        `only_file` is the name of the one file in the workspace, where there is nothing else in it.
        """

    def child_ended(self, status: int, cpu_ns: int, memory: int, only_file: str) -> None:
        """The child has ended, and everything else in the cell with it; `status` is as of wait(2)."""

    def asleep(self, cpu_ns: int, memory: int, only_file: str) -> None:
        """The child is stopped, and nothing else runs in the cell: another can be forked beside it."""

    def sleeper_lost(self) -> None:
        """A child that was stopped has ended."""

    def child_room(self) -> None:
        """The child takes more files or input."""

    def over_limit(self, limit: str) -> None:
        """The cell's own watch found too much in use of `memory`, `processes` or `workspace`, and has killed everything."""

    def cell_lost(self, reason: str) -> None:
        """The cell is gone, by itself."""


class Slot:
    """One cell. `user` is told what happens in it; without one, the slot keeps itself ready."""

    def __init__(
        self, loop: Loop, number: int, group: Group | PodGroup | None, on_idle: SlotListener, backstop_s: float = BACKSTOP_S
    ) -> None:
        self.number = number
        self.group = group
        self.user: Tenant | None = None
        self.tenant = ""
        self.ready = False
        self.master: object = None
        self._loop = loop
        self._listener = on_idle
        self._control: socket.socket | None = None
        self._child: Ends | None = None
        self._sleeper: Ends | None = None
        """Of a child that is stopped."""
        self._paused = False
        self._pidfd = -1
        self._pid = 0
        self._child_pidfd = -1
        self._destroying = False
        self._alive = False  # the child
        self._may_say = 0
        """Frames that the child may send still."""
        self._backstop_s = backstop_s
        self._backstop: Timer | None = None
        self._cpu_before = 0

    def adopt(self, pid: int, control: socket.socket) -> None:
        """Take over a cell that was just made, and have it fork its first child."""
        self._pid = pid
        self._pidfd = _pidfd(pid)
        self._control = control
        control.setblocking(False)
        if self._pidfd >= 0:
            self._loop.watch(self._pidfd, lambda _: self._cell_ended())
        self._loop.watch(control.fileno(), lambda _: self._listen())
        self._cpu_before = 0
        self.tenant = ""
        self.fork(renew=False)

    def fork(self, renew: bool, said: int = SAID) -> None:
        """Have the next child forked: with everything renewed for another job, or in what the last one left; `said`: see SAID."""
        self.ready, self._alive, self._may_say = False, True, said
        self._drop_child()
        if renew:
            self._drop_sleeper()
        child = self._child = Ends(self._loop, self)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", child.theirs))]
        try:
            if self._control is not None:
                self._control.sendmsg([b"N" if renew else b"F"], ancillary)
        except OSError:
            pass  # the cell is gone: its pidfd tells
        finally:
            child.close_theirs()

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Give the child something to read, and descriptors with it."""
        if self._child is not None:
            self._child.send(data, fds)

    @property
    def child_over(self) -> bool:
        """Whether the child has ended, and with it everything in the cell."""
        return not self._alive

    @property
    def child_full(self) -> bool:
        """Whether the child has more to read than is good: pause until `child_room`."""
        return self._child is not None and self._child.full

    def limit(self, memory_bytes: int, processes: int, cpu_cores: float) -> None:
        """What may be used from now on. Raises OSError where more memory is in use already."""
        if self.group is not None:
            self.group.limit(memory_bytes, processes + OWN_PROCESSES, cpu_cores)
        if self.group is None or isinstance(self.group, PodGroup):
            self._tell(WATCHED.pack(b"M", memory_bytes, processes if self.group is not None else 0))

    def cost(self, cpu_ns: int, memory: int) -> Header:
        """What was used since the last `reset` of the group; of what it does not count, the cell's own figures."""
        if self.group is None:
            return {"cpu_ms": cpu_ns / 1e6, "memory_bytes": memory}
        usage = self.group.usage()
        counted = {"cpu_ms": (usage.cpu_ns or cpu_ns) / 1e6, "memory_bytes": memory if usage.memory_bytes is None else usage.memory_bytes}
        return {**counted, "oom_kills": usage.oom_kills, "refused": usage.pids_refused}

    def kill(self) -> None:
        """End everything in the cell."""
        if self._backstop is None:
            self._backstop = self._loop.call_after(self._backstop_s, self.destroy)
        if self.group is not None:
            self.group.hurry()
        self._tell(b"K")

    def kill_alone(self) -> bool:
        """Kill the child where there is nothing else in the cell, without the detour through its PID 1; else return False."""
        if self._child_pidfd < 0 or self.group is None or self.group.processes() != ALONE:
            return False
        if self._backstop is None:
            self._backstop = self._loop.call_after(self._backstop_s, self.destroy)
        with contextlib.suppress(ProcessLookupError):
            linux.pidfd_send_signal(self._child_pidfd, signal.SIGKILL)
        return True

    def sleep(self) -> None:
        """Stop the child where nothing else is in the cell: `asleep` follows. Else end everything, as `kill` does."""
        if self._backstop is None:
            self._backstop = self._loop.call_after(SLEEP_S, self.destroy)
        self._tell(b"S")

    def wake(self) -> bool:
        """Have the child that is stopped go on, in the place of the one that has ended; False where it has ended itself."""
        sleeper, self._sleeper = self._sleeper, None
        if sleeper is None or not sleeper.open:
            return False
        self._drop_child()
        self._child = sleeper
        sleeper.pause(False)
        self.ready, self._alive, self._may_say = False, True, SAID
        self._tell(b"W")
        return True

    def destroy(self) -> None:
        """Kill the cell as a whole. `gone` of the listener follows."""
        self._destroying = True
        self.ready = False
        with contextlib.suppress(ProcessLookupError):
            if self._pid:
                os.kill(self._pid, signal.SIGKILL)  # it is a child of ours: nobody else has its number until we have waited for it

    def pause_output(self, paused: bool) -> None:
        """Stop or resume reading what the child writes, and says: it blocks when its pipes are full."""
        if paused != self._paused:
            self._paused = paused
            if self._child is not None:
                self._child.pause(paused)

    def catch_up(self) -> None:
        """Read what the child, which still runs, has written so far."""
        if self._child is not None:
            self._child.catch_up()

    def hear_out(self) -> None:
        """Hear all that the child had said before it ended."""
        if self._child is not None:
            self._child.hear_out()

    def drain_output(self) -> None:
        """Read what is in the pipes now."""
        if self._child is not None:
            self._child.drain()

    def _tell(self, message: bytes) -> None:
        if self._control is not None:
            try:
                self._control.send(message)
            except BlockingIOError:
                self.destroy()  # it does not read its commands: nothing else will end it
            except OSError:
                pass  # its pidfd tells

    def _listen(self) -> None:
        assert self._control is not None
        try:
            message = self._control.recv(1024)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        code = message[:1]
        if code == b"k":
            _, cpu, memory = KILLED.unpack_from(message)
            if self.user is not None:
                self.user.killed(cpu, memory, os.fsdecode(message[KILLED.size :]))
        elif code == b"x":
            self._ended(message)
        elif code == b"s":
            self._asleep(message)
        elif code == b"o" and self.user is not None:
            self.user.over_limit(message[1:].decode())
        elif not message and self._pidfd < 0:
            self._cell_ended()
        elif not message:
            self._loop.unwatch(self._control.fileno())

    def _ended(self, message: bytes) -> None:
        _, status, cpu_total, memory = ENDED.unpack_from(message)
        # While a child is stopped the total lacks what it has used, and was told of: then it is less than before.
        cpu, self._cpu_before = max(0, cpu_total - self._cpu_before), max(cpu_total, self._cpu_before)
        self._calm()
        if self.user is not None:
            self.user.child_ended(status, cpu, memory, os.fsdecode(message[ENDED.size :]))
        else:
            self._listener.busy(self)
            self.fork(renew=True)

    def _asleep(self, message: bytes) -> None:
        _, cpu, memory = KILLED.unpack_from(message)
        self._calm()
        self.drain_output()
        self._sleeper, self._child = self._child, None
        if self._child_pidfd >= 0:
            os.close(self._child_pidfd)
            self._child_pidfd = -1
        if self.user is not None:
            self.user.asleep(cpu, memory, os.fsdecode(message[KILLED.size :]))
        else:  # given up meanwhile
            self.fork(renew=True)

    def _calm(self) -> None:
        """Nothing runs in the cell."""
        self._alive = False
        if self._backstop is not None:
            self._backstop.cancel()
            self._backstop = None

    # What the ends of a child tell

    def said(self, ends: Ends, header: Header, body: bytes) -> None:
        """A frame of a child: of one that is stopped, or was dropped amid its frames, nobody wants it."""
        if ends is not self._child:
            return
        self._may_say -= 1
        if self._may_say < 0:
            # While all is being killed, many who say their end, as a fork bomb's, wait for that, and are not to go on.
            if self._backstop is None:
                ends.deafen()
        elif header.get("type") == "ready":
            self._child_ready()
        elif self.user is not None:
            self.user.child_said(header, body)

    def wrote(self, ends: Ends, stream: str, data: bytes) -> None:
        """Output."""
        if ends is self._child and self.user is not None:
            self.user.output(stream, data)

    def hung_up(self, ends: Ends) -> None:
        """A child has ended, or listens no more."""
        if ends is self._sleeper:
            self._drop_sleeper()
            if self.user is not None:
                self.user.sleeper_lost()

    def has_room(self, ends: Ends) -> None:
        """The child takes more."""
        if ends is self._child and self.user is not None:
            self.user.child_room()

    def _child_ready(self) -> None:
        if self.ready:
            return
        self.ready = True
        if self.group is not None:
            self.group.reset()
            self._child_pidfd = self._only_child()
        if self.user is not None:
            self.user.child_ready()
        else:
            self._listener.idle(self)

    def _only_child(self) -> int:
        """A pidfd of the child that is ready, which is all that PID 1 has; -1 where that can't be told."""
        try:
            with open(f"/proc/{self._pid}/task/{self._pid}/children", "rb") as file:
                pids = file.read().split()
            return linux.pidfd_open(int(pids[0])) if len(pids) == 1 else -1
        except OSError:
            return -1

    def _drop_child(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None
        if self._child_pidfd >= 0:
            os.close(self._child_pidfd)
            self._child_pidfd = -1
        self._paused = False

    def _drop_sleeper(self) -> None:
        if self._sleeper is not None:
            self._sleeper.close()
            self._sleeper = None

    def _cell_ended(self) -> None:
        if self._pidfd < 0:
            _, status = os.waitpid(self._pid, 0)  # it has hung up, which it does only by its end
        else:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid == 0:
                return
            self._loop.unwatch(self._pidfd)
            os.close(self._pidfd)
        self._pid = 0
        if self._control is not None:
            self._loop.unwatch(self._control.fileno())
            self._control.close()
            self._control = None
        self._drop_child()
        self._drop_sleeper()
        self._calm()
        self.ready = False
        if self.user is not None:  # also where we destroyed it: a cell that does not end its processes takes its job along
            self.user.cell_lost(f"its cell ended (wait status {status})")
        wanted, self._destroying = self._destroying, False
        self._listener.gone(self, wanted)


class SlotListener(Protocol):
    """The server, as a slot sees it."""

    def idle(self, slot: Slot) -> None:
        """The slot has a child ready and nobody who uses it."""

    def busy(self, slot: Slot) -> None:
        """The slot, which nobody uses, has to be renewed: its child has ended, ready or not."""

    def gone(self, slot: Slot, wanted: bool) -> None:
        """The slot has no cell any more."""


def _pidfd(pid: int) -> int:
    """A descriptor of a process; -1 where the kernel has none, as gVisor's."""
    try:
        return linux.pidfd_open(pid)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        return -1
