"""The control group of one cell, in the hierarchies of version 1 or in that of version 2."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Mapping
from typing import NamedTuple

from . import cgroup_places

PERIOD_US = 20_000
"""How often the kernel deals out CPU time: a job that used up its share waits at most so long."""
QUOTA_MIN_US = 1_000
KILL_ROUNDS = 100
"""How often a group is searched for processes to kill, where the kernel can't kill it whole."""


class Usage(NamedTuple):
    """What the processes of a group used since its last `reset`."""

    cpu_ns: int
    memory_bytes: int | None
    """The peak; None where this kernel can't start it anew."""
    oom_kills: int
    pids_refused: int
    """How often a process or thread could not be started because there were too many."""


class Group:
    """The group of one cell: its directories in all hierarchies, with the files that are needed kept open."""

    def __init__(self, directories: Mapping[str, str]) -> None:
        """Make the directories, given by controller. Raises OSError."""
        self._directories = directories
        self._paths = sorted(set(directories.values()))
        self._files: dict[tuple[str, int], int] = {}
        self._written: dict[str, str] = {}
        self._before = Usage(0, None, 0, 0)
        self._entries: list[int] = []
        made: list[str] = []
        try:
            for path in self._paths:
                os.mkdir(path)
                made.append(path)
                self._entries.append(os.open(f"{path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC))
            self.reset()
        except OSError:
            self._close()
            for path in made:
                os.rmdir(path)
            raise

    def entries(self) -> list[int]:
        """Open descriptors: a process that writes `0` to all of them moves into the group, wherever its root is.

        Move first, then unshare(CLONE_NEWCGROUP): what the process then sees of its group's path is `/`.
        """
        return self._entries

    def add(self, pid: int) -> None:
        """Move a process into the group."""
        for fd in self._entries:
            os.write(fd, str(pid).encode())

    def limit(self, memory_bytes: int | None, processes: int | None, cpu_cores: float | None) -> None:
        """Set limits, of which None is none. Raises OSError: EBUSY where more memory is in use and can't be freed.

        Memory is with swap, and with the files of every tmpfs that the cell's processes wrote. Writes only what changed.
        """
        if "memory" in self._directories:
            self._limit_memory(memory_bytes)
        if "pids" in self._directories:
            self._write("pids.max", "max" if processes is None else str(processes))
        if "cpu" in self._directories:
            self._limit_cpu(None if cpu_cores is None else max(QUOTA_MIN_US, int(cpu_cores * PERIOD_US)))

    def reset(self) -> None:
        """Count from here on."""
        self._reset_peak()
        self._before = self._now(None)

    def usage(self) -> Usage:
        """What was used since `reset`."""
        now, before = self._now(self._peak()), self._before
        return Usage(
            now.cpu_ns - before.cpu_ns,
            now.memory_bytes,
            now.oom_kills - before.oom_kills,
            now.pids_refused - before.pids_refused,
        )

    def hurry(self) -> None:
        """Lift the limit on CPU time until the next `limit`: what is to die now should not wait for its turn."""
        if "cpu" in self._directories:
            self._limit_cpu(None)

    def processes(self) -> int:
        """Processes and threads there are now; 0 where nobody counts them."""
        return int(self._read("pids.current")) if "pids" in self._directories else 0

    def kill(self) -> None:
        """SIGKILL all that is in the group."""
        kill(self._directories.get("cgroup", self._paths[0]))

    def remove(self) -> bool:
        """Remove the group. False where processes are still dying in it: call again, or leave it to the backend."""
        self._close()
        return all([tree_removed(path) for path in self._paths])  # noqa: C419 - each is tried, whatever became of the others

    def _close(self) -> None:
        for fd in (*self._entries, *self._files.values()):
            os.close(fd)
        self._entries = []
        self._files.clear()

    def _now(self, peak: int | None) -> Usage:
        refused = _field(self._read("pids.events"), b"max") if "pids" in self._directories else 0
        return Usage(self._cpu_ns(), peak, self._oom_kills(), refused)

    def _read(self, name: str, controller: str = "") -> bytes:
        return os.pread(self._file(name, os.O_RDONLY, controller), 4096, 0)

    def _write(self, name: str, text: str) -> None:
        if self._written.get(name) != text:
            self._written.pop(name, None)
            os.pwrite(self._file(name, os.O_WRONLY), text.encode(), 0)
            self._written[name] = text

    def _file(self, name: str, flags: int, controller: str = "") -> int:
        fd = self._files.get((name, flags), -1)
        if fd < 0:
            directory = self._directories[controller or name.partition(".")[0]]
            fd = self._files[name, flags] = os.open(f"{directory}/{name}", flags | os.O_CLOEXEC)
        return fd

    def _has(self, name: str) -> bool:
        directory = self._directories.get(name.partition(".")[0])
        return directory is not None and os.path.exists(f"{directory}/{name}")

    def _version_2_cpu_ns(self) -> int:
        """Version 2 counts this without any controller."""
        if "cgroup" not in self._directories:
            return 0
        return _field(self._read("cpu.stat", "cgroup"), b"usage_usec") * 1000

    # What differs between the versions

    def _limit_memory(self, size: int | None) -> None:
        raise NotImplementedError

    def _limit_cpu(self, quota_us: int | None) -> None:
        raise NotImplementedError

    def _reset_peak(self) -> None:
        raise NotImplementedError

    def _peak(self) -> int | None:
        raise NotImplementedError

    def _oom_kills(self) -> int:
        raise NotImplementedError

    def _cpu_ns(self) -> int:
        raise NotImplementedError


class Group1(Group):
    """A group in the hierarchies of version 1."""

    def _limit_memory(self, size: int | None) -> None:
        text = "-1" if size is None else str(size)
        names = ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]
        if self._written.get(names[0]) == text:
            return
        if not self._has(names[1]):  # the kernel was started without accounts of swap
            self._write("memory.swappiness", "0")
            names.pop()
        elif size is None or size > int(self._read(names[0])):
            names.reverse()  # memory alone may never exceed memory and swap together
        for name in names:
            self._write(name, text)

    def _limit_cpu(self, quota_us: int | None) -> None:
        self._write("cpu.cfs_period_us", str(PERIOD_US))
        self._write("cpu.cfs_quota_us", "-1" if quota_us is None else str(quota_us))

    def _reset_peak(self) -> None:
        if "memory" in self._directories:
            os.pwrite(self._file("memory.max_usage_in_bytes", os.O_WRONLY), b"0", 0)

    def _peak(self) -> int | None:
        return int(self._read("memory.max_usage_in_bytes")) if "memory" in self._directories else None

    def _oom_kills(self) -> int:
        return _field(self._read("memory.oom_control"), b"oom_kill") if "memory" in self._directories else 0

    def _cpu_ns(self) -> int:
        return int(self._read("cpuacct.usage")) if "cpuacct" in self._directories else self._version_2_cpu_ns()


class Group2(Group):
    """A group in the one hierarchy of version 2."""

    _peak_restarts = True

    def _limit_memory(self, size: int | None) -> None:
        if self._has("memory.swap.max"):
            self._write("memory.swap.max", "0")
        self._write("memory.max", "max" if size is None else str(size))

    def _limit_cpu(self, quota_us: int | None) -> None:
        self._write("cpu.max", f"{'max' if quota_us is None else quota_us} {PERIOD_US}")

    def _reset_peak(self) -> None:
        """Starts the peak anew, for this one descriptor, on Linux 6.12 and later."""
        if not self._peak_restarts:
            return
        try:
            os.pwrite(self._file("memory.peak", os.O_RDWR, "cgroup"), b"0", 0)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EINVAL, errno.EACCES, errno.EPERM):
                raise
            self._peak_restarts = False

    def _peak(self) -> int | None:
        return int(os.pread(self._file("memory.peak", os.O_RDWR), 64, 0)) if self._peak_restarts else None

    def _oom_kills(self) -> int:
        return _field(self._read("memory.events"), b"oom_kill") if "memory" in self._directories else 0

    def _cpu_ns(self) -> int:
        return self._version_2_cpu_ns()


def kill(directory: str) -> None:
    """SIGKILL all processes in a group and below."""
    try:
        with open(f"{directory}/cgroup.kill", "w", encoding="ascii") as file:
            file.write("1")
            return
    except OSError:  # version 1, before Linux 5.14, or gone
        pass
    for _ in range(KILL_ROUNDS):
        pids = [pid for path, _, _ in os.walk(directory) for pid in cgroup_places.processes(path) if pid > 0]
        if not pids:
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def tree_removed(top: str) -> bool:
    """Remove a group and those below. False where processes are still in them, or dying."""
    try:
        names = [entry.name for entry in os.scandir(top) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return True
    gone = [tree_removed(f"{top}/{name}") for name in names]
    return all(gone) and _removed(top)


def _removed(directory: str) -> bool:
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def _field(text: bytes, name: bytes) -> int:
    """The number behind a name, in a file of lines `name number`."""
    for line in text.splitlines():
        key, _, value = line.partition(b" ")
        if key == name:
            return int(value)
    return 0
