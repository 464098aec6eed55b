"""Ending processes, and counting what they use, at each level: by namespace, by Landlock scope, by descent."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

from . import landlock, linux
from .options import LANDLOCK, NAMESPACED, POD

ROUNDS = 2000
"""Rounds of killing before we give up and let the agent kill the whole cell."""
PAGE = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")


class NamespaceReaper:
    """PID 1 of a PID namespace: kill(-1) reaches exactly its processes, and none can be forked past it."""

    def __init__(self) -> None:
        self._base = _anonymous(os.getpid())

    def kill(self) -> None:
        """Kill all processes but this one; they run no instruction of theirs any more."""
        try:  # at each job's end, and each function that is called takes pages of its own: no `suppress`
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            return

    def pids(self) -> Iterator[int]:
        """All processes but this one."""
        own = os.getpid()
        return (int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != own)

    def memory(self) -> tuple[int, int]:
        """Bytes that all processes have of their own, and that they map to share: files in memory, and what is no file's.

        What they share with the zygote by fork is not counted, what several map is counted once; but what they have
        from a fork of their own counts for each, see `own_memory`.
        """
        pids = list(self.pids())
        parts, hidden = zip(*map(_shared, pids), strict=True) if pids else ((), (0,))
        return sum(max(0, _anonymous(pid) - self._base) for pid in pids), sum(parts) + max(hidden)

    def own_memory(self) -> int:
        """Bytes that all processes have of their own, with what several have from a fork counted once: walks their pages."""
        return sum(_own(pid, self._base) for pid in self.pids())

    def tasks(self) -> int:
        """How many processes and threads there are besides this one."""
        return sum(_threads(pid) for pid in self.pids())


class PodReaper(NamespaceReaper):
    """A process of a container whose PID 1 is the agent: kill(-1) spares that one and ourselves, and nobody else is there."""

    def __init__(self) -> None:
        super().__init__()
        with contextlib.suppress(OSError):  # gVisor knows none but PID 1: what the job leaves behind is the agent's there, and ends with it
            linux.set_child_subreaper()

    def pids(self) -> Iterator[int]:
        """All processes but this one and the agent."""
        return (pid for pid in super().pids() if pid != 1)


class DescentReaper(NamespaceReaper):
    """A child subreaper without a namespace: processes are found by descent, round after round."""

    def __init__(self) -> None:
        super().__init__()
        linux.set_child_subreaper()

    def kill(self) -> None:
        """Kill all descendants, again while there are any."""
        for _ in range(ROUNDS):
            pids = list(self.pids())
            if not pids:
                return
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if all(_is_zombie(pid) for pid in pids):
                return

    def pids(self) -> Iterator[int]:
        """All descendants."""
        found = [os.getpid()]
        for pid in found:
            found += _children(pid)
        return iter(found[1:])


class ScopeReaper(DescentReaper):
    """A Landlock domain that signals can't leave: kill(-1) reaches exactly the processes of this domain (Linux 6.12)."""

    def __init__(self) -> None:
        super().__init__()
        landlock.scope_signals()

    def kill(self) -> None:
        """Kill until nobody is left: a process that was being forked may survive one round."""
        for _ in range(ROUNDS):
            try:
                os.kill(-1, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                return
            if all(_is_zombie(pid) for pid in self.pids()):
                return


def for_level(level: str) -> NamespaceReaper:
    """The way of ending processes at a level."""
    if level in NAMESPACED:
        return NamespaceReaper()
    if level == POD:
        return PodReaper()
    return ScopeReaper() if level == LANDLOCK else DescentReaper()


def usage(pid: int) -> tuple[int, int]:
    """CPU time in ns and peak resident memory in bytes of a process that still runs; zeros where it can't be read."""
    status = f"/proc/{pid}/status"
    return _cpu_ns(pid), _field(status, b"VmHWM:") or _field(status, b"VmRSS:") or 0  # gVisor tells no peak


def _cpu_ns(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{pid}/schedstat", "rb") as file:
        return int(file.read().split()[0])
    # gVisor has no such file, and a kernel may be built without it.
    with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{pid}/stat", "rb") as file:
        user, system = file.read().rpartition(b")")[2].split()[11:13]
        return (int(user) + int(system)) * 1_000_000_000 // TICKS
    return 0


def stopped(pid: int) -> bool:
    """Stop a child of ours with all its threads; False where it has ended. It stays to be waited for."""
    os.kill(pid, signal.SIGSTOP)
    found = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    return found is not None and found.si_code == os.CLD_STOPPED


def _anonymous(pid: int) -> int:
    """Resident anonymous memory of a process in bytes; 0 where it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            _, resident, shared, *_ = file.read().split()
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * PAGE


def _own(pid: int, base: int) -> int:
    """Bytes of a process's own and its part of those from forks; all of both but for `base`, where its part can't be read."""
    part = _field(f"/proc/{pid}/smaps_rollup", b"Pss_Anon:")  # Linux 5.4
    return max(0, _anonymous(pid) - base) if part is None else part


def _threads(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[17])
    except (OSError, ValueError, IndexError):
        return 0


def _shared(pid: int) -> tuple[int, int]:
    """A process's part of the memory that it maps together with others, in bytes; or 0 and all of it, where its part can't be read."""
    mapped = _field(f"/proc/{pid}/status", b"RssShmem:") or 0
    part = _field(f"/proc/{pid}/smaps_rollup", b"Pss_Shmem:") if mapped else 0  # walks its pages: only where it has some
    return (0, mapped) if part is None else (part, 0)


def _field(path: str, name: bytes) -> int | None:
    """Bytes in a line of a file of /proc, such as `RssShmem:  12 kB`; None where it can't be read."""
    try:
        with open(path, "rb") as file:
            text = file.read()
    except OSError:
        return None
    at = text.find(name)
    return int(text[at + len(name) :].split(None, 1)[0]) * 1024 if at >= 0 else None


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                found += [int(word) for word in file.read().split()]
    except OSError:  # gone meanwhile
        pass
    return found


def _is_zombie(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True
