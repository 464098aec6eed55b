"""The streams and consumers that there should be, and how others differ. Plain code, no I/O.

JetStream refuses schedules in a stream that refuses what it has no room for, and a stream of jobs has to do that. So
delayed jobs have a stream of their own, from which they are pulled when they are due.
"""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from .settings import JetStream

SCHEDULES = (2, 12)
"""The first version of the server that has message schedules, and priorities of those who ask."""
JOBS, LATER, PARTS, RESULTS, EVENTS, DEAD = "JOBS", "LATER", "PART", "RES", "EVT", "DEAD"

_NS = 1_000_000_000
_WAITING = 512
_WARM_FIRST = {"priority_groups": ["rd"], "priority_policy": "prioritized"}


class Consumer(Struct, frozen=True, kw_only=True):
    """A durable consumer that all daemons share."""

    stream: str
    name: str
    config: dict[str, Any]


class Topology(Struct, frozen=True, kw_only=True):
    """What durable jobs need on the server."""

    prefix: str
    """First tokens of all subjects."""
    settings: JetStream
    version: tuple[int, int]
    """Of the server: major and minor."""

    @property
    def schedules(self) -> bool:
        """Whether the server can delay jobs."""
        return self.version >= SCHEDULES

    def stream(self, what: str) -> str:
        """The name of one of the streams."""
        return self.settings.stream_prefix + what

    def streams(self) -> list[dict[str, Any]]:
        """Configurations of all streams."""
        of, settings = self._stream, self.settings
        jobs = {
            "retention": "workqueue",
            "max_age": _ns(settings.jobs_age_s),
            "duplicate_window": _ns(settings.dedup_s),
        }
        later = {"discard": "old", "allow_msg_schedules": True, "allow_msg_ttl": True}
        results = {
            "max_msgs_per_subject": 1,
            "discard": "new",
            "discard_new_per_subject": True,
            "max_age": _ns(settings.results_age_s),
            "allow_msg_ttl": True,
        }
        events = {
            "max_age": _ns(settings.events_age_s),
            "max_bytes": settings.events_bytes,
            "discard": "old",
            "compression": "s2",
        }
        return [
            # none but these classes: a message that no consumer takes would stay without a word
            of(
                JOBS,
                [f"job.*.{name}.{rest}" for name in settings.classes for rest in ("*", "*.*")],
                **jobs,
                discard="new",
                max_bytes=settings.jobs_bytes,
            ),
            *([of(LATER, ["sched.>", "due.>"], **jobs, **later)] if self.schedules else []),
            # the last of a number counts, so a part may be sent again; who has no room for one is told so
            of(
                PARTS,
                ["part.*.*.*"],
                max_msgs_per_subject=1,
                discard="new",
                max_age=_ns(settings.jobs_age_s),
                max_bytes=settings.parts_bytes,
            ),
            of(RESULTS, ["res.>"], **results),
            of(EVENTS, ["evt.>"], **events),
            of(DEAD, ["dead.>"], max_age=_ns(settings.dead_age_s), discard="old"),
        ]

    def consumers(self) -> list[Consumer]:
        """The consumers of jobs, the most urgent first; delayed jobs that are due come after the first class."""
        found = [self._consumer(JOBS, f"rd-{name}", f"job.*.{name}.>") for name in self.settings.classes]
        if self.schedules:
            found.insert(1, self._consumer(LATER, "rd-due", "due.>"))
        return found

    def _stream(self, what: str, subjects: list[str], **config: Any) -> dict[str, Any]:
        return {
            "name": self.stream(what),
            "subjects": [f"{self.prefix}.{subject}" for subject in subjects],
            "retention": "limits",
            "storage": "file",
            "num_replicas": self.settings.replicas,
            "allow_direct": True,
            **config,
        }

    def _consumer(self, what: str, name: str, subject: str) -> Consumer:
        config = {
            "name": name,
            "durable_name": name,
            "filter_subject": f"{self.prefix}.{subject}",
            "ack_policy": "explicit",
            "ack_wait": _ns(self.settings.ack_wait_s),
            "max_deliver": -1,
            "max_ack_pending": self.settings.ack_pending,
            "max_waiting": _WAITING,
            **(_WARM_FIRST if self.settings.placement == "warm" and self.version >= SCHEDULES else {}),
        }
        return Consumer(stream=self.stream(what), name=name, config=config)


def differences(wanted: Mapping[str, Any], actual: Mapping[str, Any]) -> list[str]:
    """What is not as wanted, field by field, for people. What nobody asked for is not compared."""
    return [
        f"{name} is {_shown(name, actual.get(name))}, not {_shown(name, value)}"
        for name, value in wanted.items()
        if _comparable(actual.get(name)) != _comparable(value)
    ]


def _comparable(value: Any) -> Any:
    if isinstance(value, list):
        return sorted(value)
    return value or None  # the server leaves out what is false, empty or 0


def _shown(name: str, value: Any) -> str:
    if name in ("max_age", "duplicate_window", "ack_wait") and value:
        return f"{value / _NS:.15g} s"
    return "not set" if value is None else str(value)


def _ns(seconds: float) -> int:
    return int(seconds * _NS)
