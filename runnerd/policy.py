"""What a pool does next: which sandboxes are started, leased and ended. Decided here, done in `pool`.

There is no I/O here, no clock and no task: the policy is told what happened and when, and answers with a plan.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta, Struct

from .job import Reuse
from .spec import Language, Sandbox

Seconds = Annotated[float, Meta(gt=0, le=31_536_000)]


class PoolSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether sandboxes stand warm, and how they are started and replaced. How many is each language's `warm`."""

    enabled: Annotated[bool, Meta(extra={"env": "POD_POOL_ENABLED"})] = True
    """False: nothing stands warm, every sandbox is started on demand."""
    warm_at_start: Annotated[bool, Meta(extra={"env": "POD_POOL_WARMUP_ON_STARTUP"})] = True
    """Take jobs only when the pools have been filled, or could not be. False: fill them while jobs come in."""
    batch: Annotated[int, Meta(ge=1, le=1000, extra={"env": "POD_POOL_PARALLEL_BATCH"})] = 5
    """Sandboxes started at once to refill. What a waiting job needs starts beside them."""
    refill_on_lease: Annotated[bool, Meta(extra={"env": "POD_POOL_EXHAUSTION_TRIGGER"})] = True
    """Refill as soon as a lease begins. False: only every `refill_interval_s`."""
    refill_interval_s: Annotated[float, Meta(ge=0, le=86_400, extra={"env": "POD_POOL_REPLENISH_INTERVAL"})] | None = None
    """Least seconds between two refill batches. None: 0, or 2 where `refill_on_lease` is off."""
    alive: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    """Most sandboxes of one language at once, whether starting, warm, leased or ending. None: the warm ones and one per slot."""
    max_age_s: Seconds = 3600.0
    """A warm sandbox that was not leased for so long is replaced."""
    start_timeout_s: Seconds = 60.0
    """A start that takes longer has failed, in seconds."""
    close_timeout_s: Seconds = 30.0
    """How long the end of a sandbox may take before it is cut off, in seconds."""
    backoff_s: Seconds = 0.1
    """Wait after a failed start, in seconds; doubled with each further one, and jittered."""
    backoff_most_s: Seconds = 30.0
    """Longest such wait, in seconds."""
    reuse: Reuse = "job"
    """What one sandbox serves, in languages that do not say otherwise: `job`, `session` or `tenant`. Needs `isolation.reuse`."""
    kept: Annotated[int, Meta(ge=0, le=100_000)] = 10
    """Sandboxes of one language that are kept for the next job of their session or tenant; the one used longest ago goes first."""
    kept_idle_s: Seconds = 300.0
    """A sandbox that is kept ends when no job has come to it for so long, in seconds."""
    settle_s: Seconds = 5.0
    """A warm sandbox that goes away by itself sooner than this after its start counts as a failed start."""

    def target(self, language: Language) -> int:
        """How many sandboxes of `language` are to stand warm."""
        return language.warm if self.enabled else 0


class Stay(NamedTuple):
    """What a sandbox is kept for."""

    key: tuple[str, str]
    """Tenant and session, the latter empty where it is kept for all of the tenant's jobs."""
    mark: str
    """How its last job left things. Who finds them otherwise can't use it."""


State = Literal["starting", "warm", "leased", "kept", "ending"]


class Seat:
    """The place of one sandbox in its pool, from start to end."""

    __slots__ = ("ended", "guard", "kept_until", "ready_at", "sandbox", "state", "stay", "watch")

    def __init__(self) -> None:
        self.state: State = "starting"
        self.stay: Stay | None = None
        self.kept_until = 0.0
        self.guard: asyncio.Task[None] | None = None
        """Waits for the loss of a sandbox that is kept."""
        self.sandbox: Sandbox | None = None
        self.ready_at = 0.0
        self.watch: asyncio.Timeout | None = None
        """Interrupts the keeper while it waits for its sandbox to start, or to be lost."""
        self.ended: asyncio.Event | None = None
        """Set when the keeper is to end the sandbox."""


class Waiter:
    """A lease that waits for its sandbox."""

    __slots__ = ("tenant", "told")

    def __init__(self, tenant: str, told: "asyncio.Future[Seat] | None" = None) -> None:
        self.tenant = tenant
        self.told = told


class Plan(NamedTuple):
    """What is to be done now."""

    hand: list[tuple[Waiter, Seat]]
    """Who gets which sandbox."""
    close: list[Seat]
    start: list[Seat]
    again_at: float | None
    """When to plan again though nothing changed."""


_NOTHING = Plan([], [], [], None)


class Policy:
    """The sandboxes of one language and what is to become of them.

    Every sandbox is in one of five states, and `plan`, called after each change, is the whole policy:

                                                 ┌── resume ──┐
        starting ── ready ──> warm ── take ──> leased ── keep ──> kept
           │                   │                 │                 │
           └─ failed ─┐        └─ lost, old,     └─ end            └─ lost, idle, stale,
                      v           surplus ─┐     v                    surplus ─┐
                      └──────────────> ending <──┴─────────────────────────────┘ ── gone ──>
    """

    def __init__(
        self, target: int, slots: int, settings: PoolSettings, jitter: Callable[[], float] = random.random, *, keeps: bool = False
    ) -> None:
        """`keeps`: whether sandboxes may be kept."""
        self.target = target
        self.failing = ""
        """Why the last start failed; empty once one has succeeded."""
        self.waiting: dict[Waiter, None] = {}
        self.starting: dict[Seat, None] = {}
        self.warm: dict[Seat, None] = {}
        self.leased: dict[Seat, None] = {}
        self.kept: dict[Seat, None] = {}
        """The one that was used longest ago first."""
        self.ending: dict[Seat, None] = {}
        self._slots = slots
        self._most_kept = settings.kept if keeps else 0
        self._settings = settings
        self._jitter = jitter
        self._failures = 0
        self._retry_at = 0.0
        self._settled_at = 0.0
        self._refill_at = 0.0
        spacing = settings.refill_interval_s
        self._spacing = spacing if spacing is not None else 0.0
        if not settings.refill_on_lease and not spacing:
            self._spacing = 2.0

    @property
    def limit(self) -> int:
        """Most sandboxes at once."""
        return self._settings.alive or self.target + self._slots + self._most_kept

    @property
    def alive(self) -> int:
        """Sandboxes there are, in whatever state."""
        return len(self.starting) + len(self.warm) + len(self.leased) + len(self.kept) + len(self.ending)

    def plan(self, now: float) -> Plan:
        """What to do now; the states are changed already, the caller only acts."""
        if self._settled():
            return _NOTHING
        # 1. Who waits gets what is warm, the oldest first.
        hand: list[tuple[Waiter, Seat]] = []
        while self.waiting and self.warm:
            waiter = next(iter(self.waiting))
            seat = self.take(waiter.tenant)
            if seat is None:
                break
            del self.waiting[waiter]
            hand.append((waiter, seat))
        # 2. More than shall be warm: the oldest end.
        close = list(self.warm)[: max(0, len(self.warm) - self.target)]
        for seat in close:
            self._move(seat, self.warm, self.ending, "ending")
        # 3. Of those that are kept: the idle end, and as many as others need the room of.
        close += (gone := self._overdue(now))
        for seat in gone:
            self._move(seat, self.kept, self.ending, "ending")
        # 4. What is missing is started, as far as failures, the limit, the batch and its spacing allow.
        count, again_at = self._starts(now)
        start = [Seat() for _ in range(count)]
        self.starting.update(dict.fromkeys(start))
        if self.kept:
            first = next(iter(self.kept)).kept_until
            again_at = first if again_at is None else min(first, again_at)
        return Plan(hand, close, start, again_at)

    def _settled(self) -> bool:
        """Whether nothing is to be done, and needs no plan: of the three that are asked for with a job, two find it so."""
        warm = len(self.warm)
        return not self.waiting and not self.kept and warm <= self.target <= warm + len(self.starting) and self._settings.refill_on_lease

    def _overdue(self, now: float) -> list[Seat]:
        kept = list(self.kept)
        idle = sum(1 for seat in kept if seat.kept_until <= now)
        missing = len(self.waiting) + self.target - len(self.warm) - len(self.starting)
        short = missing - (self.limit - self.alive) - len(self.ending)
        if self.failing and self.waiting and not self.ending:
            short = max(short, 1)  # what does not let it start may be that there are so many
        return kept[: max(idle, short, len(kept) - self._most_kept)]

    def _starts(self, now: float) -> tuple[int, float | None]:
        missing = len(self.waiting) + self.target - len(self.warm) - len(self.starting)
        if missing > 0 and now < self._retry_at:
            return 0, self._retry_at
        demand = max(0, len(self.waiting) - len(self.starting))
        refill = max(0, min(missing - demand, self._settings.batch - len(self.starting) - demand))
        due = now >= self._refill_at
        count = min(demand + (refill if due else 0), self.limit - self.alive)
        if self.failing and count > 0:
            count = 0 if self.starting else 1  # until one succeeds, one at a time
        if due and self._spacing and (count > demand or not self._settings.refill_on_lease):
            self._refill_at = now + self._spacing
        waits = now < self._refill_at and (missing - count > 0 or not self._settings.refill_on_lease)
        return max(0, count), self._refill_at if waits else None

    def take(self, tenant: str) -> Seat | None:
        """Lease a warm sandbox: one that served this tenant, else one that served nobody, else any. None where nothing is warm."""
        if not self.warm:
            return None

        def strangeness(seat: Seat) -> int:
            owner = seat.sandbox.tenant if seat.sandbox is not None else ""
            return 0 if owner == tenant else 2 if owner else 1

        seat = min(self.warm, key=strangeness)
        self._move(seat, self.warm, self.leased, "leased")
        return seat

    def keep(self, seat: Seat, stay: Stay, now: float) -> None:
        """A lease ended, and its sandbox is kept for whoever asks for the same."""
        seat.stay = stay
        seat.kept_until = now + self._settings.kept_idle_s
        self._move(seat, self.leased, self.kept, "kept")

    def resume(self, stay: Stay) -> tuple[Seat | None, list[Seat]]:
        """Lease the sandbox that is kept for this, if one is; and those that are of no use any more, which end."""
        mine = [seat for seat in self.kept if seat.stay is not None and seat.stay.key == stay.key]
        stale = [seat for seat in mine if seat.stay != stay]
        for seat in stale:
            self._move(seat, self.kept, self.ending, "ending")
        found = next((seat for seat in reversed(mine) if seat.stay == stay), None)
        if found is not None:
            self._move(found, self.kept, self.leased, "leased")
        return found, stale

    def ready(self, seat: Seat, sandbox: Sandbox, now: float) -> None:
        """A start succeeded."""
        seat.sandbox = sandbox
        seat.ready_at = now
        self.failing = ""
        self._settled_at = min(self._settled_at, now + self._settings.settle_s)
        self._move(seat, self.starting, self.warm, "warm")

    def failed(self, seat: Seat, reason: str, now: float) -> Waiter | None:
        """A start failed. Returns whom to tell: one that waits and that no other start in progress can serve."""
        self._move(seat, self.starting, self.ending, "ending")
        self._back_off(reason, now)
        if len(self.waiting) <= len(self.starting):
            return None
        waiter = next(iter(self.waiting))
        del self.waiting[waiter]
        return waiter

    def lost(self, seat: Seat, reason: str, now: float) -> None:
        """A sandbox went away by itself. One that is leased ends with its lease."""
        if seat.state == "kept":
            self._move(seat, self.kept, self.ending, "ending")
        if seat.state == "warm":
            self._move(seat, self.warm, self.ending, "ending")
            if now - seat.ready_at < self._settings.settle_s:
                self._back_off(reason, now)

    def retire(self, seat: Seat) -> None:
        """A warm sandbox is to be replaced, or one that is kept to end."""
        if seat.state == "warm":
            self._move(seat, self.warm, self.ending, "ending")
        elif seat.state == "kept":
            self._move(seat, self.kept, self.ending, "ending")

    def end(self, seat: Seat) -> None:
        """A lease ended, however it did."""
        self._move(seat, self.leased, self.ending, "ending")

    def gone(self, seat: Seat) -> None:
        """A sandbox has ended."""
        for seats in (self.ending, self.starting, self.warm, self.leased, self.kept):
            seats.pop(seat, None)

    def _back_off(self, reason: str, now: float) -> None:
        self.failing = reason
        if now < self._retry_at:
            return  # it was started together with one that failed before it
        self._failures = 1 if now >= self._settled_at else self._failures + 1
        self._settled_at = float("inf")
        wait = min(self._settings.backoff_most_s, self._settings.backoff_s * 2.0 ** min(self._failures - 1, 60))
        self._retry_at = now + wait * (0.5 + 0.5 * self._jitter())

    @staticmethod
    def _move(seat: Seat, source: dict[Seat, None], target: dict[Seat, None], state: State) -> None:
        del source[seat]
        target[seat] = None
        seat.state = state
