"""Exchanges and queues on the broker: their names, what binds them, and what they are declared with. Plain code, no I/O.

Queues carry as few arguments as can be, since those can't be changed later: the rest is for policies, see
`deploy/rabbitmq/definitions.json`. A retry queue's arguments are what it is.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from msgspec import Struct

QUESTION_TTL_MS = 30_000
"""How long a question about a job waits for a daemon."""


class Exchange(Struct, frozen=True, kw_only=True):
    """An exchange; durable."""

    name: str
    type: str


class Queue(Struct, frozen=True, kw_only=True):
    """A queue, durable, and what binds it: exchange, routing key, arguments."""

    name: str
    arguments: Mapping[str, Any]
    bindings: tuple[tuple[str, str, Mapping[str, Any]], ...]


class Address(Struct, frozen=True, kw_only=True):
    """What a routing key says of a job. Tenant and language are empty where it is only a queue's name."""

    tenant: str = ""
    cls: str = ""
    lang: str = ""


class Topology(Struct, frozen=True, kw_only=True):
    """All that there should be, under one prefix."""

    prefix: str
    classes: tuple[str, ...]
    delays_s: tuple[int, ...]

    @property
    def jobs(self) -> str:
        """Takes jobs: `job.<tenant>.<class>.<lang>`."""
        return f"{self.prefix}.jobs"

    @property
    def retry(self) -> str:
        """Takes jobs that are to come again later, by the header `rd-delay`."""
        return f"{self.prefix}.retry"

    @property
    def dead(self) -> str:
        """Takes dead letters, the broker's and ours."""
        return f"{self.prefix}.dlx"

    @property
    def events(self) -> str:
        """Takes output and results: `evt.<tenant>.<job>.<kind>`. What nobody binds is dropped."""
        return f"{self.prefix}.events"

    @property
    def control(self) -> str:
        """Takes questions, `ctl.<tenant>.<job>.<verb>`, and what is told to all daemons, `cast.<tenant>.<job>.cancel`.

        The queue of the questions has this name as well.
        """
        return f"{self.prefix}.ctl"

    @property
    def letters(self) -> str:
        """The queue of dead letters."""
        return f"{self.prefix}.dead"

    def queue_of(self, cls: str) -> str:
        """The queue of a class."""
        return f"{self.prefix}.jobs.{cls}"

    def exchanges(self) -> list[Exchange]:
        """All exchanges."""
        topics = (self.jobs, self.dead, self.events, self.control)
        return [*(Exchange(name=name, type="topic") for name in topics), Exchange(name=self.retry, type="headers")]

    def queues(self) -> list[Queue]:
        """All queues with a name."""
        quorum = {"x-queue-type": "quorum"}
        questions = {"x-message-ttl": QUESTION_TTL_MS}  # nobody asks twice about what is gone with a broker
        return [
            *(self._jobs(cls, quorum) for cls in self.classes),
            *(self._retry(delay_s) for delay_s in self.delays_s),
            Queue(name=self.letters, arguments=quorum, bindings=((self.dead, "#", {}),)),
            Queue(name=self.control, arguments=questions, bindings=((self.control, "ctl.#", {}),)),
        ]

    def _jobs(self, cls: str, arguments: Mapping[str, Any]) -> Queue:
        name = self.queue_of(cls)
        # its own name as well: what was sent straight to the queue finds back from a retry queue by it
        return Queue(name=name, arguments=arguments, bindings=((self.jobs, f"job.*.{cls}.#", {}), (self.jobs, name, {})))

    def _retry(self, delay_s: int) -> Queue:
        # not at-least-once: a node that is killed may leave such a queue without a leader, rabbitmq-server#16652; seen with 3.10.8
        arguments = {
            "x-queue-type": "quorum",
            "x-message-ttl": delay_s * 1000,
            "x-dead-letter-exchange": self.jobs,  # the routing key stays the message's own
        }
        matching = {"x-match": "all", "rd-delay": f"{delay_s}s"}
        return Queue(name=f"{self.retry}.{delay_s}s", arguments=arguments, bindings=((self.retry, "", matching),))

    def address(self, routing_key: str, queue: str) -> Address | None:
        """Read a job's routing key, `job.<tenant>.<class>.<lang>` or its queue's name; None where it is neither."""
        if routing_key == queue:
            return Address()
        tokens = routing_key.split(".")
        if len(tokens) != 4 or tokens[0] != "job":
            return None
        return Address(tenant=tokens[1], cls=tokens[2], lang=tokens[3])

    def own(self, queue: str) -> bool:
        """Whether a queue is one of these."""
        return queue in _names(self)


@cache
def _names(topology: Topology) -> frozenset[str]:
    return frozenset(queue.name for queue in topology.queues())
