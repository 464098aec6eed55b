"""What happens to whom and when, and which jobs come: all of it by chance of one seed, so that it can be had again. No I/O."""

import random
from typing import Literal

from msgspec import Struct

Kind = Literal["kill", "kill-long", "drain", "pause", "cut", "silence", "broker", "broker-long", "store", "store-pause", "slow"]

LEASE_S = 2.0
"""How long a daemon's sign of life and a message in hand last."""
SHORT_S, LONG_S = 0.3, LEASE_S + 1.5
KINDS: tuple[Kind, ...] = (
    "kill",  # SIGKILL of a daemon, back after a short while
    "kill-long",  # back after its lease and its messages have run out
    "drain",  # SIGTERM and a new one
    "pause",  # SIGSTOP past the lease, then SIGCONT
    "cut",  # its connections break and no new one is let through
    "silence",  # its connections stay and nothing comes through, past the lease
    "broker",  # SIGKILL
    "broker-long",
    "store",  # SIGKILL of the store
    "store-pause",  # the store answers nobody for a while
    "slow",  # who listens to output and answers reads nothing for a while
)


class Strike(Struct, frozen=True, kw_only=True):
    """One evil thing."""

    at_s: float
    """After the first job."""
    kind: Kind
    daemon: int
    """Whom it hits, where it hits a daemon."""

    def __str__(self) -> str:
        return f"{self.at_s:5.2f} s  {self.kind} (daemon {self.daemon})"


class Planned(Struct, frozen=True, kw_only=True):
    """A job that is to come."""

    id: str
    code: str
    at_s: float
    again_s: float | None = None
    """When it is submitted again, after the first time."""
    other_s: float | None = None
    """When another job is submitted under its id, after the first time; not before it has ended."""
    cancel_s: float | None = None
    """When it is cancelled, after the first time."""
    streams: bool = False


class Schedule(Struct, frozen=True, kw_only=True):
    """All that one seed brings."""

    seed: int
    strikes: tuple[Strike, ...]
    jobs: tuple[Planned, ...]

    def __str__(self) -> str:
        return "\n".join((f"seed {self.seed}, {len(self.jobs)} jobs", *map(str, self.strikes)))


def schedule(seed: int, kinds: tuple[Kind, ...], jobs: int, daemons: int, length_s: float) -> Schedule:
    """Every kind once, in any order and at any time; the daemons in turn, as each takes one at a time."""
    chance = random.Random(seed)
    order = chance.sample(kinds, len(kinds))
    strikes = [Strike(at_s=chance.uniform(0.5, length_s), kind=kind, daemon=number % daemons) for number, kind in enumerate(order)]
    planned = [_job(chance, f"s{seed}-{number}", length_s) for number in range(jobs)]
    return Schedule(
        seed=seed, strikes=tuple(sorted(strikes, key=lambda each: each.at_s)), jobs=tuple(sorted(planned, key=lambda each: each.at_s))
    )


def _job(chance: random.Random, name: str, length_s: float) -> Planned:
    words = {
        "say": 40,
        f"sleep {chance.choice((0.02, 0.1, 0.3))}": 40,
        f"sleep {LEASE_S + 1}": 1,  # longer than a lease, so that only signs of life keep it
        "stream 20": 8,
        f"print {1_200_000}": 2,  # more than a message takes
        "fail 3": 5,
        f"lose {chance.choice((1, 2))}": 3,
        "lose 99": 1,  # a dead letter
    }
    code = chance.choices(list(words), list(words.values()))[0]
    return Planned(
        id=name,
        code=code,
        at_s=chance.uniform(0, length_s),
        again_s=chance.uniform(0.01, length_s / 2) if chance.random() < 0.12 else None,
        other_s=chance.uniform(0.01, length_s / 2) if chance.random() < 0.06 else None,
        cancel_s=chance.expovariate(4) if chance.random() < 0.08 else None,
        streams=code.startswith("stream"),
    )
