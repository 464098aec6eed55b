"""How many jobs are in hand, and whether one more may be taken: plain arithmetic, no I/O."""


class Room:
    """Counts jobs in hand against what the daemon can start.

    Jobs are taken as long as one more would start at once, and up to `prefetch` more, so that a sandbox that becomes free
    has its next job here already. Memory stays bounded: never more in hand than could start, and `prefetch`.
    """

    def __init__(self, prefetch: int) -> None:
        self.prefetch = prefetch
        self.closed = False
        """Whether no more jobs are taken, for good."""
        self.in_hand = 0
        self._starting = 0
        """Taken, and not yet in the daemon's own count: their task has not begun."""
        self._ahead = 0
        """Taken while none more could start."""

    def __repr__(self) -> str:
        return f"<Room in hand {self.in_hand}, {self._ahead} of {self.prefetch} ahead{', closed' if self.closed else ''}>"

    def startable(self, free: int) -> int:
        """How many more would start at once, when the daemon says that `free` would."""
        return 0 if self.closed else max(0, free - self._starting)

    def left(self, free: int) -> int:
        """How many more may be taken, when `free` more would start."""
        if self.closed:
            return 0
        startable = self.startable(free)
        if startable > 0:
            self._ahead = 0
            return startable + self.prefetch
        return self.prefetch - self._ahead

    def take(self, free: int) -> bool:
        """Take a job, if there is room."""
        if self.left(free) <= 0:
            return False
        if free - self._starting <= 0:
            self._ahead += 1
        self.in_hand += 1
        self._starting += 1
        return True

    def started(self) -> None:
        """A job that was taken is in the daemon's count from now on."""
        self._starting -= 1

    def done(self) -> None:
        """A job is not in hand any more."""
        self.in_hand -= 1
        self._ahead = max(0, self._ahead - 1)

    def wants_more(self, free: int, *, member: bool) -> bool:
        """Whether to be in the queue group. It is left when full, and joined again when half of `prefetch` is free."""
        left = self.left(free)
        return left > 0 if member else left >= max(1, self.prefetch // 2)
