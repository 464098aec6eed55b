"""What an ingress counts. A flood is counted, and logged now and then."""

from collections import Counter
from collections.abc import Callable
from typing import Any


def _nobody(_: str) -> None:
    pass


class Counters:
    """Counts by name. Each power of two is logged, so a million of the same cost twenty lines."""

    def __init__(self, log: Any, happened: Callable[[str], None] = _nobody) -> None:
        """`log` is structlog's, of the ingress; `happened` is told each name that is counted, for the daemon's metrics."""
        self._counts: Counter[str] = Counter()
        self._log = log
        self._happened = happened

    def count(self, what: str, **facts: object) -> None:
        """Count `what` once more. `facts` go into the log: never a body, nor anything of its environment."""
        self._counts[what] += 1
        self._happened(what)
        number = self._counts[what]
        if number & (number - 1) == 0:
            self._log.warning(what, times=number, **facts)

    def __getitem__(self, what: str) -> int:
        return self._counts[what]

    def as_dict(self) -> dict[str, int]:
        """All that was counted so far."""
        return dict(self._counts)
