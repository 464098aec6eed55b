"""Samples of one run, and what is made of them: percentiles and ratios."""

import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path

from . import machine

OUT = Path(__file__).parent / "out"


def percentile(values: list[float], percent: float) -> float:
    """The smallest value that at least `percent` of all values don't exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def p50(values: list[float]) -> float:
    """The median, as `percentile` defines it."""
    return percentile(values, 50)


@dataclass
class Samples:
    """All that one run has measured. Times in milliseconds."""

    raw: dict[str, list[float]] = field(default_factory=dict)
    results: dict[str, float] = field(default_factory=dict)
    notes: dict[str, object] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        self.raw.setdefault(name, []).append(value)

    def result(self, name: str, value: float) -> None:
        self.results[name] = round(value, 4)

    def write(self) -> Path:
        """Write the results to `bench/out/latest.json`, and all samples beside it."""
        OUT.mkdir(exist_ok=True)
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        raw = OUT / f"raw-{now.replace(':', '')}.json"
        raw.write_text(json.dumps(self.raw))
        summary = {name: summarised(values) for name, values in self.raw.items()}
        latest = {**self.results, "at": now, "samples": summary, "notes": self.notes, "machine": machine.describe(), "raw": raw.name}
        path = OUT / "latest.json"
        path.write_text(json.dumps(latest, indent=2) + "\n")
        return path


def summarised(values: list[float]) -> dict[str, float]:
    """Count, extremes and percentiles of one sample."""
    return {
        "n": len(values),
        "min": round(min(values), 4),
        "p50": round(p50(values), 4),
        "p99": round(percentile(values, 99), 4),
        "max": round(max(values), 4),
    }
