"""Pauses between tries, of whatever a bus or a daemon does not take at once."""

import asyncio
import random
import time

from ..errors import RunnerdError, Saturated
from .patience import Patience

LONGEST_PAUSE_S = 2.0


class Pauses:
    """Pauses between tries, each twice the one before, until it has gone on for `most_s`."""

    def __init__(self, patience: Patience, most_s: float) -> None:
        self._patience = patience
        self._most_s = most_s
        self.alive()

    def alive(self) -> None:
        """There was news: tries begin anew."""
        self._alive_at = time.monotonic()
        self._pause_s = self._patience.pause_s

    async def after(self, error: RunnerdError) -> None:
        """Wait before the next try. Raises `error` when that has gone on for too long."""
        if time.monotonic() - self._alive_at >= self._most_s:
            raise error
        told_s = error.retry_after_s if isinstance(error, Saturated) else 0.0
        pause_s = min(max(self._pause_s, told_s), LONGEST_PAUSE_S)
        await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads many clients, guards nothing
        self._pause_s *= 2
