"""Counts of one kind of request, as `nats micro stats` shows them."""

import time
from typing import Any


class Endpoint:
    """One subject that is served, with how often, how long and with what errors."""

    def __init__(self, name: str, subject: str, queue: str, metadata: dict[str, str]) -> None:
        self.name = name
        self.subject = subject
        self.queue = queue
        self.metadata = metadata
        self.requests = 0
        self.errors = 0
        self.last_error = ""
        self._spent_ns = 0

    def begin(self) -> int:
        """A request came; give what this returns to `end`."""
        self.requests += 1
        return time.perf_counter_ns()

    def end(self, began_ns: int, error: str = "") -> None:
        """It was answered; `error` where runnerd, not the program, failed it."""
        self._spent_ns += time.perf_counter_ns() - began_ns
        if error:
            self.errors += 1
            self.last_error = error

    def info(self) -> dict[str, Any]:
        """Its entry in an INFO answer."""
        return {"name": self.name, "subject": self.subject, "queue_group": self.queue, "metadata": self.metadata}

    def stats(self) -> dict[str, Any]:
        """Its entry in a STATS answer. Times in nanoseconds."""
        return {
            "name": self.name,
            "subject": self.subject,
            "queue_group": self.queue,
            "num_requests": self.requests,
            "num_errors": self.errors,
            "last_error": self.last_error,
            "processing_time": self._spent_ns,
            "average_processing_time": self._spent_ns // max(1, self.requests),
        }
