"""The daemon's slices of time: agents wake it, and jobs compute beside it. See sched_setattr(2)."""

import contextlib

from ..agent import linux


def shorten_slice() -> None:
    """Have this thread run as soon as it is woken, though others of the same priority compute. It gets no more time by that.

    What it starts has the usual slices. Nothing is done where the kernel does not let us.
    """
    with contextlib.suppress(OSError):
        linux.shorten_slice()
