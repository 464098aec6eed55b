"""What a daemon counts, and how Prometheus reads it.

Jobs and stores are counted in plain Python as they pass. All else is counted where it happens, and read when somebody asks for
it. No label has a value that a caller chose: languages, statuses and kinds are those that the daemon knows itself.
"""

import bisect
import functools
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

from .errors import RunnerdError
from .job import Result
from .pace import Pace
from .store import Blobs, KeyValues

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric


BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Up to how many seconds the parts of a histogram reach."""
MOST_EVENTS = 100
"""Names of events of one ingress; further ones are `other`."""
KEY_VALUE_OPERATIONS = ("get", "put", "put_if_absent", "compare_and_set", "delete", "rank", "unrank", "ranked", "expire")
BLOB_OPERATIONS = ("put", "info", "list", "delete")
OTHER = "other"
POOL = {
    "warm": "Sandboxes that stand ready.",
    "starting": "Sandboxes that are being started.",
    "leased": "Sandboxes in which a job runs.",
    "kept": "Sandboxes that are kept for the next job of a session or tenant.",
    "ending": "Sandboxes that are being ended.",
    "waiting": "Jobs that wait for a sandbox.",
    "target": "Sandboxes that are to stand ready.",
    "limit": "Sandboxes that there may be.",
}
SWEPT = {
    "sessions_expired": "Sessions that were removed.",
    "states_archived": "Snapshots that were moved to the blob store.",
    "states_expired": "Snapshots that were removed.",
    "orphans_removed": "Blobs that were removed because no session names them.",
}


class Histogram:
    """How often something took how long."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def add(self, seconds: float) -> None:
        """It took so long."""
        self.counts[bisect.bisect_left(BOUNDS_S, seconds)] += 1
        self.sum_s += seconds

    def buckets(self) -> Iterator[tuple[str, float]]:
        """Upper bound and how often it took no longer, in turn."""
        total = 0
        for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), self.counts, strict=True):
            total += count
            yield bound, total


class Meter:
    """All that is counted as it passes."""

    def __init__(self, languages: Collection[str]) -> None:
        self.jobs: Counter[tuple[str, str, str]] = Counter()
        """By language, status and ingress."""
        self.given_back: Counter[tuple[str, str]] = Counter()
        """By ingress and why."""
        self.starts: Counter[str] = Counter()
        self.waited: dict[str, Histogram] = {}
        self.ran: dict[str, Histogram] = {}
        self.events: Counter[tuple[str, str]] = Counter()
        """By ingress and name."""
        self.stores: dict[tuple[str, str], Operations] = {}
        """By what the store is for, and its kind."""
        self._languages = languages

    def ended(self, result: Result, ingress: str) -> None:
        """A result was given to who submitted the job."""
        lang = result.lang if result.lang in self._languages else OTHER
        self.jobs[lang, result.status, ingress] += 1

    def started(self, result: Result) -> None:
        """A job that was started here has ended, whoever is told, and however often."""
        lang = result.lang if result.lang in self._languages else OTHER
        self.starts[lang] += result.starts
        self._histogram(self.waited, lang).add(result.usage.queued_ms / 1000)
        self._histogram(self.ran, lang).add(result.usage.ran_ms / 1000)

    def refused(self, error: RunnerdError, ingress: str) -> None:
        """No result was given: the job is to come again."""
        self.given_back[ingress, type(error).__name__.lower()] += 1

    def happened(self, ingress: str, event: str) -> None:
        """Something happened on a bus. `event` is a word of the ingress's own."""
        key = (ingress, event)
        if key not in self.events and len(self.events) >= MOST_EVENTS:
            key = (ingress, OTHER)
        self.events[key] += 1

    def keys(self, kv: KeyValues, kind: str) -> KeyValues:
        """A key-value store, counted."""
        return cast(KeyValues, _Counted(kv, self._operations("kv", kind), KEY_VALUE_OPERATIONS))

    def blobs(self, blobs: Blobs, kind: str) -> Blobs:
        """A blob store, counted."""
        return cast(Blobs, _CountedBlobs(blobs, self._operations("blob", kind), BLOB_OPERATIONS))

    def _operations(self, use: str, kind: str) -> "Operations":
        return self.stores.setdefault((use, kind), Operations())

    @staticmethod
    def _histogram(histograms: dict[str, Histogram], lang: str) -> Histogram:
        histogram = histograms.get(lang)
        if histogram is None:
            histogram = histograms[lang] = Histogram()
        return histogram


class Operations:
    """What one store was asked, and how often it failed, by operation."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()


class _Counted:
    """A store whose operations are counted."""

    def __init__(self, store: Any, operations: Operations, names: Collection[str]) -> None:
        self._store = store
        self._operations = operations
        for name in names:
            setattr(self, name, self._counting(name, getattr(store, name)))

    @property
    def value_bytes(self) -> int:
        """See `KeyValues.value_bytes`."""
        return int(self._store.value_bytes)

    def _counting(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        asked, failed = self._operations.asked, self._operations.failed

        @functools.wraps(method)
        async def ask(*args: Any, **options: Any) -> Any:
            asked[name] += 1
            try:
                return await method(*args, **options)
            except Exception:
                failed[name] += 1
                raise

        return ask


class _CountedBlobs(_Counted):
    async def get(self, key: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """See `Blobs.get`."""
        self._operations.asked["get"] += 1
        try:
            async with aclosing(cast(AsyncGenerator[bytes, None], self._store.get(key, start, end))) as chunks:
                async for chunk in chunks:
                    yield chunk
        except Exception:
            self._operations.failed["get"] += 1
            raise


def exposition(meter: Meter, health: Mapping[str, Any], paces: Mapping[str, Pace], sweeps: Mapping[str, float]) -> bytes:
    """Everything in the text format of Prometheus. `health` is the daemon's; `sweeps` as `Workspaces.metrics` has them."""
    from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest  # noqa: PLC0415 - only who asks pays for it

    class Collector:
        def collect(self) -> Iterator["Metric"]:
            yield from _jobs(meter)
            yield from _queue(health)
            yield from _pools(health["pools"], paces)
            yield from _stores(meter)
            yield from _sessions(sweeps)
            yield from _events(meter)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(cast(Any, Collector()))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


def _jobs(meter: Meter) -> Iterator["Metric"]:
    labels = ("language", "status", "ingress")
    yield _counter("jobs", "Results that were given to those who submitted jobs.", labels, meter.jobs)
    about = "Jobs that were given back without a result, to come again."
    yield _counter("jobs_given_back", about, ("ingress", "reason"), meter.given_back)
    yield _counter("job_starts", "Starts of the jobs that have a result.", ("language",), _single(meter.starts))
    yield _histogram("job_queue_seconds", "How long jobs waited for their sandbox.", meter.waited)
    yield _histogram("job_run_seconds", "How long programs ran.", meter.ran)


def _queue(health: Mapping[str, Any]) -> Iterator["Metric"]:
    executor = health["executor"]
    yield _gauge("build_info", "Version of the daemon.", ("version",), {(health["version"],): 1})
    yield _gauge("isolation_info", "Level that sandboxes reach.", ("executor", "level"), {(executor["name"], executor["level"]): 1})
    yield _gauge("refusing", "Whether every job is rejected.", (), {(): int(bool(health["refuses"]))})
    yield _gauge("draining", "Whether no more jobs are taken.", (), {(): int(health["draining"])})
    yield _gauge("slots", "Jobs that may run at once.", (), {(): health["slots"]})
    yield _gauge("slots_free", "Jobs that would get a slot if they came now.", (), {(): health["free"]})
    yield _gauge("jobs_running", "Jobs that hold a slot.", (), {(): health["running"]})
    yield _gauge("jobs_queued", "Jobs that wait for a slot.", (), {(): health["queued"]})
    yield _counter("output_events_dropped", "Pieces of output that slow listeners lost.", (), {(): health["dropped_events"]})


def _pools(pools: Mapping[str, Mapping[str, Any]], paces: Mapping[str, Pace]) -> Iterator["Metric"]:
    for name, about in POOL.items():
        counts = {(lang,): pool[name] for lang, pool in pools.items() if name in pool}
        yield _gauge(f"pool_{name}", about, ("language",), counts)
    failing = {(lang,): int(bool(pool["failing"])) for lang, pool in pools.items()}
    yield _gauge("pool_failing", "Whether the last start of a sandbox failed.", ("language",), failing)
    failed = {(lang,): pace.failed_starts for lang, pace in paces.items()}
    yield _counter("pool_failed_starts", "Sandboxes that could not be started.", ("language",), failed)
    starts = {lang: (pace.starts, pace.start_s) for lang, pace in paces.items()}
    yield _summary("pool_start_seconds", "How long sandboxes took to start.", starts)
    waits = {lang: (pace.waits, pace.wait_s) for lang, pace in paces.items()}
    yield _summary("pool_lease_wait_seconds", "How long jobs with a slot waited for their sandbox.", waits)


def _stores(meter: Meter) -> Iterator["Metric"]:
    labels = ("store", "kind", "operation")
    asked = {(*store, name): count for store, operations in meter.stores.items() for name, count in operations.asked.items()}
    yield _counter("store_operations", "What stores were asked.", labels, asked)
    failed = {(*store, name): operations.failed[name] for store, operations in meter.stores.items() for name in operations.asked}
    yield _counter("store_errors", "How often they failed.", labels, failed)


def _sessions(sweeps: Mapping[str, float]) -> Iterator["Metric"]:
    if not sweeps:
        return
    yield _counter("sessions_made", "Sessions that were made.", (), {(): sweeps["made"]})
    yield _gauge("sessions_in_use", "Sessions in which jobs of this daemon work.", (), {(): sweeps["in_use"]})
    for name, about in SWEPT.items():
        yield _counter(f"sweeper_{name}", about, (), {(): sweeps[name]})
    yield _summary("sweeper_seconds", "Turns of the sweeper, and how long they took.", {"": (int(sweeps["turns"]), sweeps["spent_s"])})


def _events(meter: Meter) -> Iterator["Metric"]:
    about = "What went wrong on buses: refusals, dead letters, answers and acknowledgements that were lost."
    yield _counter("ingress_events", about, ("ingress", "event"), meter.events)


def _single(counts: Mapping[str, float]) -> dict[tuple[str, ...], float]:
    return {(name,): count for name, count in counts.items()}


def _counter(name: str, about: str, labels: tuple[str, ...], values: Mapping[Any, float]) -> "Metric":
    from prometheus_client.metrics_core import CounterMetricFamily  # noqa: PLC0415 - see above

    family = CounterMetricFamily(f"runnerd_{name}", about, labels=labels)
    for key, value in list(values.items()):
        family.add_metric(key, value)
    return family


def _gauge(name: str, about: str, labels: tuple[str, ...], values: Mapping[Any, float]) -> "Metric":
    from prometheus_client.metrics_core import GaugeMetricFamily  # noqa: PLC0415 - see above

    family = GaugeMetricFamily(f"runnerd_{name}", about, labels=labels)
    for key, value in list(values.items()):
        family.add_metric(key, value)
    return family


def _summary(name: str, about: str, values: Mapping[str, tuple[int, float]]) -> "Metric":
    """Count and sum, by language where that is not empty."""
    from prometheus_client.metrics_core import SummaryMetricFamily  # noqa: PLC0415 - see above

    family = SummaryMetricFamily(f"runnerd_{name}", about, labels=("language",) if any(values) else ())
    for lang, (count, total) in values.items():
        family.add_metric((lang,) if lang else (), count, total)
    return family


def _histogram(name: str, about: str, histograms: Mapping[str, Histogram]) -> "Metric":
    from prometheus_client.metrics_core import HistogramMetricFamily  # noqa: PLC0415 - see above

    family = HistogramMetricFamily(f"runnerd_{name}", about, labels=("language",))
    for lang, histogram in list(histograms.items()):
        family.add_metric((lang,), list(histogram.buckets()), histogram.sum_s)
    return family
