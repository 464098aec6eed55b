"""What this ingress counts. A flood is counted, and logged now and then."""

from collections import Counter
from collections.abc import Callable

import structlog

log = structlog.get_logger("runnerd.ingress.rabbitmq")


def _nobody(_: str) -> None:
    pass


class Counters:
    """Counts by name. Each power of two is logged, so a million of the same cost twenty lines."""

    def __init__(self, happened: Callable[[str], None] = _nobody) -> None:
        """`happened` is told each name that is counted, for the daemon's metrics."""
        self._counts: Counter[str] = Counter()
        self._happened = happened

    def count(self, what: str, **facts: object) -> None:
        """Count `what` once more. `facts` go into the log: never a body, nor anything of its environment."""
        self._counts[what] += 1
        self._happened(what)
        number = self._counts[what]
        if number & (number - 1) == 0:
            log.warning(what, times=number, **facts)

    def __getitem__(self, what: str) -> int:
        return self._counts[what]
