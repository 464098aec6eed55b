"""What processes share by key or name, and what outlives them: System V objects, and POSIX message queues. See ipc_namespaces(7).

A fresh namespace for each job, with its removal, would cost the kernel about half of what a fork does. A job mostly leaves
nothing there, and that can be seen.
"""

from __future__ import annotations

import errno
import os

from . import linux

_TABLES = ("shm", "sem", "msg")
"""In /proc/sysvipc: a line of headings, and one for each object. See proc(5)."""
_HEADINGS = 4096
"""Bytes of a table to read: more than its headings have."""


class Namespace:
    """The one that this process is in. Needs CAP_SYS_ADMIN, and a proc file system."""

    def __init__(self, place: str) -> None:
        """`place`: a directory to mount the queues' file system on for a moment, where no path leads to it ever after."""
        self._place = place
        self._open()

    def renew(self) -> None:
        """Go on without anything that was made here. Raises OSError."""
        if not self.empty:
            self._close()
            linux.unshare(linux.CLONE_NEWIPC)
            self._open()

    @property
    def empty(self) -> bool:
        """Whether nothing is there; never where that can't be seen, for the kernel was built without some of it."""
        if self._queues < 0 or os.listdir(self._queues):
            return False
        for table in self._tables:  # noqa: SIM110 - asked for between all jobs: no generator, and the pages that it is on
            if os.pread(table, _HEADINGS, 0).count(b"\n") != 1:
                return False
        return True

    def _open(self) -> None:
        self._tables: list[int] = []
        self._queues = -1
        try:
            for name in _TABLES:
                self._tables.append(os.open(f"/proc/sysvipc/{name}", os.O_RDONLY | os.O_CLOEXEC))
            linux.mount("mqueue", self._place, "mqueue", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                raise
            return
        self._queues = os.open(self._place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        linux.umount(self._place, linux.MNT_DETACH)

    def _close(self) -> None:
        for fd in (*self._tables, self._queues):  # each of them holds the namespace
            if fd >= 0:
                os.close(fd)
