"""How a pool does: how many sandboxes it started, how long that took, and how long jobs waited for one. Plain code."""

from typing import Any

SHARE = 1 / 16
"""How much the latest counts in a mean that forgets."""


class Pace:
    """Counts since the pool was opened, and means of late."""

    def __init__(self) -> None:
        self.starts = 0
        self.failed_starts = 0
        self.start_s = 0.0
        """What all starts took together."""
        self.waits = 0
        self.wait_s = 0.0
        """What all waits took together."""
        self._start_s = 0.0
        self._wait_s = 0.0

    def started(self, seconds: float) -> None:
        """A sandbox is ready."""
        self._start_s += (seconds - self._start_s) * (SHARE if self.starts else 1)
        self.starts += 1
        self.start_s += seconds

    def failed(self) -> None:
        """A sandbox did not start."""
        self.failed_starts += 1

    def waited(self, seconds: float) -> None:
        """A job has its sandbox."""
        self._wait_s += (seconds - self._wait_s) * SHARE
        self.waits += 1
        self.wait_s += seconds

    def health(self) -> dict[str, Any]:
        """Counts and times in ms: plain data."""
        times = {"start_ms": round(self._start_s * 1000, 1), "wait_ms": round(self._wait_s * 1000, 1)}
        return {"starts": self.starts, "failed_starts": self.failed_starts, **times}
