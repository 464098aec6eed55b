"""The wall time of a program that calls tools: it stands still while an answer is waited for, as long as that is allowed."""

from __future__ import annotations

import time
from collections.abc import Callable

from .loop import Loop, Timer

FINEST_S = 0.05
"""How exactly the end is met. There is one timer, which looks how much is left: none per call, of which there are many."""


class Clock:
    """Counts down `run_s`, and `wait_s` in its place while the program waits; then calls `over` once."""

    def __init__(self, loop: Loop, run_s: float, wait_s: float, over: Callable[[], None]) -> None:
        self._loop = loop
        self._run_s = run_s
        self._wait_s = wait_s
        self._over = over
        self._waits = False
        self._since = time.monotonic()
        self._timer: Timer = loop.call_after(run_s, self._look)

    def waits(self, waits: bool) -> None:
        """Whether the program waits from now on."""
        self._count()
        self._waits = waits

    def cancel(self) -> None:
        """Do not call."""
        self._timer.cancel()

    def _count(self) -> None:
        now = time.monotonic()
        passed, self._since = now - self._since, now
        if self._waits:
            spared = min(passed, self._wait_s)
            self._wait_s -= spared
            passed -= spared
        self._run_s -= passed

    def _look(self) -> None:
        self._count()
        if self._run_s <= 0:
            self._over()
        else:
            self._timer = self._loop.call_after(max(self._run_s, FINEST_S), self._look)
