"""Pages of memory that a standby child is going to write to, copied ahead of its job.

A forked process copies a page when it first writes to it, and counting a reference is writing. Which pages a job needs in any
case is read from the page maps of processes that ran one; where the kernel can't tell or copy (before 5.14), there are none.
"""

from __future__ import annotations

import array
import mmap
import os
from collections.abc import Iterator

from . import linux

Pages = array.array
"""Ranges: address and length in turn, both in bytes."""
NONE: Pages[int] = array.array("Q")

_SIZE = mmap.PAGESIZE
_ENTRY = 8
_PRESENT, _FILE_OR_SHARED, _EXCLUSIVE = 1 << 63, 1 << 61, 1 << 56
"""Bits of an entry: Documentation/admin-guide/mm/pagemap.rst."""
_POPULATE_WRITE = 23
"""MADV_POPULATE_WRITE, Linux 5.14."""


class PageMap:
    """What a child has of its parent's writable memory for itself. Made before the fork, it adds nothing of its own to that."""

    def __init__(self) -> None:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
            self._mappings = [_range(line) for line in file if line.split()[1].startswith("rw")]
        size = sum((end - start) // _SIZE * _ENTRY for start, end in self._mappings)
        self._entries = mmap.mmap(-1, size)  # shared: the parent reads what the child noted

    def note(self, pagemap: int) -> None:
        """In the child: note what it has for itself; `pagemap` is a descriptor of its /proc/self/pagemap. Raises OSError."""
        view, done = memoryview(self._entries), 0
        for start, end in self._mappings:
            length = (end - start) // _SIZE * _ENTRY
            os.preadv(pagemap, [view[done : done + length]], start // _SIZE * _ENTRY)
            done += length

    def gained(self) -> set[int]:
        """In the parent: addresses of the pages that are the child's own."""
        entries = array.array("Q", self._entries[:])
        addresses = (address for start, end in self._mappings for address in range(start, end, _SIZE))
        return {address for address, entry in zip(addresses, entries) if _own(entry)}  # noqa: B905 - Python 3.9 has no strict


def ranges(addresses: set[int]) -> Pages[int]:
    """Pages that lie side by side as one range."""
    return array.array("Q", (number for run in _runs(iter(sorted(addresses))) for number in run))


def _own(entry: int) -> bool:
    return bool(entry & _PRESENT and entry & _EXCLUSIVE and not entry & _FILE_OR_SHARED)


def _range(line: str) -> tuple[int, int]:
    start, end = line.split(maxsplit=1)[0].split("-")
    return int(start, 16), int(end, 16)


def _runs(addresses: Iterator[int]) -> Iterator[tuple[int, int]]:
    start = length = 0
    for address in addresses:
        if address == start + length:
            length += _SIZE
            continue
        if length:
            yield start, length
        start, length = address, _SIZE
    if length:
        yield start, length


class Copy:
    """Pages to be copied, by as few calls as can be."""

    def __init__(self, pages: Pages[int]) -> None:
        self._pages = pages
        self._bytes = sum(pages[1::2])
        self._all_at_once = linux.madvise_all(pages, _POPULATE_WRITE)

    def __call__(self) -> None:
        """Copy them, as far as they can be: what can't be is copied when it is written to."""
        if self._all_at_once() == self._bytes:
            return
        for i in range(0, len(self._pages), 2):
            linux.madvise(self._pages[i], self._pages[i + 1], _POPULATE_WRITE)
