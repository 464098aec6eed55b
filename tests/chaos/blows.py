"""What was done to daemons, and when, so that a job that was started twice has a cause."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import Struct

from chaos.schedule import LEASE_S

AFTER_S = 2 * LEASE_S
"""How long a daemon may still be taken for dead after it is well again: until its next sign of life."""
RECORD_S = 10.0
"""A start that ended so long ago was recorded, however busy the machine is."""


class Start(Struct, kw_only=True):
    """One start of a job. Times are of the clock that all processes share, in seconds."""

    mark: str
    began: float
    ended: float | None = None
    """When its program came to its end."""
    lost: bool = False
    """It lost its sandbox, as its program wanted it."""

    @property
    def by(self) -> str:
        """The daemon's process."""
        return self.mark.partition(".")[0]


class Blow(Struct, frozen=True, kw_only=True):
    """A time in which a process could not do its work, or not tell of it."""

    what: str
    whom: str
    """A daemon's process; empty for all of them."""
    since: float
    until: float


class Blows:
    """All blows of a run that excuse a second start."""

    def __init__(self) -> None:
        self.all: list[Blow] = []

    @contextmanager
    def at(self, what: str, whom: str = "", *, excuses: bool = True) -> Iterator[None]:
        """What happens in the block is a blow. `excuses`: it keeps a daemon from its store, or from its work."""
        since = time.monotonic()
        try:
            yield
        finally:
            if excuses:
                self.all.append(Blow(what=what, whom=whom, since=since, until=time.monotonic()))

    def between(self, whom: str, since: float, until: float) -> bool:
        """Whether something happened to a process in this time, or shortly before."""
        return any(blow.whom in ("", whom) and blow.since <= until and since <= blow.until + AFTER_S for blow in self.all)

    def cause(self, start: Start, following: Start) -> bool:
        """Whether there was a reason to start a job again."""
        if start.lost:
            return True
        known = following.began if start.ended is None else min(following.began, start.ended + RECORD_S)
        # The daemon of the second one may have been stopped between counting that start and making it.
        return self.between(start.by, start.began, known) or self.between(following.by, following.began, following.began)
