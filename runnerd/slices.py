"""Slices of time, as the scheduler of Linux 6.12 gives them: see sched_setattr(2)."""

import contextlib
import os

from .agent import linux


def shorten_slices(pid: int = 0, inherited: bool = False) -> None:
    """Have the threads of a process, of ours by default, run soon after they are woken, though others of the same priority compute.

    They get no more time by that. What they start later has the usual slices, unless `inherited`. Nothing is done where the
    kernel does not let us.
    """
    with contextlib.suppress(FileNotFoundError):  # it has ended
        for thread in os.listdir(f"/proc/{pid or os.getpid()}/task"):
            with contextlib.suppress(OSError):
                linux.shorten_slice(int(thread), inherited)
