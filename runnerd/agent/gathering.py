"""The collection of the files that a job left, seen from the agent: see collect.py for the other side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from .frames import CHUNK, Header, pack
from .loop import Loop, Timer
from .slot import Slot

ENTRIES = 100_000
GATHERED = 1 << 62
"""Frames of a child that collects: as many as the files have pieces."""
SKIPPED = 100


class GatheringListener(Protocol):
    """The lease, as a gathering sees it."""

    def emit(self, header: Header, body: bytes = b"") -> None:
        """Send a frame to the executor."""

    def made_wait(self) -> bool:
        """Whether the executor has made us wait, since this was last asked or now."""


class Gathering:
    """One collection, by a child that is asked for it. `too_slow` is called where it takes longer than `limit_s`."""

    def __init__(self, loop: Loop, slot: Slot, listener: GatheringListener, limit_s: float, too_slow: Callable[[], None]) -> None:
        self._loop = loop
        self._slot = slot
        self._listener = listener
        self._limit_s = limit_s
        self._too_slow = too_slow
        self._deadline: Timer | None = None
        self.failed = False
        """Whether not all could be read."""
        self._amid = False
        """Whether pieces of a file are still to come."""
        self._complete = False

    def start(self, wanted: Header) -> None:
        """Ask the child for it."""
        self._slot.send(pack({"type": "collect", "entries": ENTRIES, "skipped": SKIPPED, **wanted}))
        self._deadline = self._loop.call_after(self._limit_s, self._late)

    def take(self, kind: object, header: Header, body: bytes) -> bool:
        """Take what the child says; returns whether that was all."""
        if kind == "file" and len(body) <= CHUNK:
            self._amid = bool(header.get("more"))
            self._listener.emit(header, body)
        elif kind == "skipped":
            self._listener.emit(header)
        self._complete = self._complete or kind == "collected"
        return kind == "collected"

    def end(self, failed: bool = False) -> None:
        """There is no more to come."""
        if self._deadline is not None:
            self._deadline.cancel()
        if failed:
            self._slot.hear_out()  # the child's end may be told before we have read its last words
        if not failed or self._complete:
            return
        self.failed = True
        if self._amid:
            self._listener.emit({"type": "file", "cut": True})
        self._listener.emit({"type": "skipped", "name": ".", "reason": "the files could not be read in time, or not at all"})

    def _late(self) -> None:
        if self._listener.made_wait():  # it is not the child who is slow
            self._deadline = self._loop.call_after(self._limit_s, self._late)
        else:
            self._too_slow()
