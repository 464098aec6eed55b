"""What a directory on the host's disk takes, counted now and then: there the kernel sets no bound.

It keeps programs that write without end from filling the disk. One that hides what it writes, in directories that nobody
may read or in files without a name, is bounded by the size of each file and the number of open ones alone.
"""

from __future__ import annotations

import errno
import os
import time

EVERY_S = 0.25
SHARE = 20
"""Counting takes at most one part in so many of the time, however many files there are."""
BLOCK = 512


class Quota:
    """Most bytes and most entries of a directory with all that is below it."""

    def __init__(self, path: str, size: int, entries: int) -> None:
        self._path = path
        self._size = size
        self._entries = entries
        self._next = 0.0

    def over(self) -> bool:
        """Whether there is more than there may be, as far as it was counted again."""
        begin = time.monotonic()
        if begin < self._next:
            return False
        over = self._count()
        took = time.monotonic() - begin
        self._next = begin + max(EVERY_S, took * SHARE)
        return over

    def _count(self) -> bool:
        size, entries, ahead = self._size, self._entries, [self._path]
        while ahead:
            try:
                with os.scandir(ahead.pop()) as found:
                    for entry in found:
                        size -= entry.stat(follow_symlinks=False).st_blocks * BLOCK
                        entries -= 1
                        if size < 0 or entries < 0:
                            return True
                        if entry.is_dir(follow_symlinks=False):
                            ahead.append(entry.path)
            except OSError as error:  # gone meanwhile, or closed to us
                if error.errno == errno.ENAMETOOLONG:
                    return True
        return False
