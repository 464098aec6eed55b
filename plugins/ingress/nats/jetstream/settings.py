"""Settings of durable jobs."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

_DAY_S = 86_400.0
Class = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,32}$")]


class JetStream(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Durable jobs, kept by JetStream until they have a result."""

    streams: Literal["auto", "verify", "ensure", "off"] = "auto"
    """`ensure` makes streams and consumers that are missing, `verify` needs them (`runnerd bus init` makes them), `off` takes no
    durable jobs. `auto`: `ensure` on the embedded server; on another one `verify` where there is a stream of jobs, else `off`.

    What differs from these settings is reported and stays as it is."""
    stream_prefix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,32}$")] = "RD_"
    """First letters of the streams' names."""
    domain: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{0,64}$")] = ""
    """JetStream domain, where it is not the server's own."""
    replicas: Annotated[int, Meta(ge=1, le=5)] = 1
    """Copies of each stream in a cluster."""

    classes: Annotated[tuple[Class, ...], Meta(min_length=1, max_length=8)] = ("hi", "std", "low")
    """Priority classes, the most urgent first: each is served before the next gets a slot."""
    reserved_slots: Annotated[int, Meta(ge=0, le=100_000)] = 0
    """Slots that only the first class may take."""
    placement: Literal["any", "warm"] = "any"
    """`warm`: of several daemons with free slots, those that have a sandbox standing ready get the next job. Needs a server of 2.12,
    and consumers that were made so: those that are there already have to be deleted first."""
    ahead: Annotated[int, Meta(ge=0, le=10_000)] = 0
    """Jobs that are asked for beyond the free slots. They wait here, where no other daemon can take them."""
    in_hand: Annotated[int, Meta(ge=1, le=1_000_000)] = 1000
    """Messages in hand at most, repeated submissions of running jobs among them."""

    ack_wait_s: Annotated[float, Meta(ge=1, le=3600)] = 15.0
    """A message of which nothing was heard for so long is delivered to another daemon. Those in hand are renewed at a third of it."""
    ack_pending: Annotated[int, Meta(ge=1, le=10_000_000)] = 10_000
    """Messages in the hands of all daemons together; it should be far above their slots."""
    answer_s: Annotated[float, Meta(gt=0, le=60)] = 2.0
    """How long the server may take to store a result, or to forget a message, before it is asked again."""
    again_s: Annotated[float, Meta(gt=0, le=3600)] = 1.0
    """First pause before a job that runnerd could not run comes again, and before this daemon asks for more; it grows."""
    again_most_s: Annotated[float, Meta(gt=0, le=86_400)] = 60.0
    """Longest such pause."""
    dedup_s: Annotated[float, Meta(ge=0.1, le=_DAY_S)] = 600.0
    """How long JetStream itself knows a `Nats-Msg-Id` again. Later repetitions are answered from the record."""

    jobs_age_s: Annotated[float, Meta(ge=1)] = 7 * _DAY_S
    """How long a job stays in the stream at most. It is then gone without a word: a job's own time is `Rd-Queue-Ttl-Ms`."""
    jobs_bytes: Annotated[int, Meta(ge=1 << 20)] = 1 << 30
    """Bytes of jobs in the stream; who submits more is told so by the server."""
    body_bytes: Annotated[int, Meta(ge=1024, le=1 << 32)] = 64 << 20
    """Largest body of a job that comes in parts, see `Rd-Parts`."""
    bodies_bytes: Annotated[int, Meta(ge=1024, le=1 << 40)] = 256 << 20
    """Bytes of such bodies in memory at once; further jobs wait. A single one is taken whatever it has."""
    parts_bytes: Annotated[int, Meta(ge=1 << 20)] = 1 << 30
    """Bytes of parts in the stream; who stores more is told so by the server. They go with their job, or when `jobs_age_s` is over."""
    results_age_s: Annotated[float, Meta(ge=1)] = _DAY_S
    """How long results stay in the stream. A job may ask for less or more by `Rd-Result-Ttl`."""
    events_age_s: Annotated[float, Meta(ge=1)] = 3600.0
    """How long output events stay in the stream."""
    events_bytes: Annotated[int, Meta(ge=1 << 20)] = 256 << 20
    """Bytes of output events in the stream; the oldest go first."""
    dead_age_s: Annotated[float, Meta(ge=1)] = 30 * _DAY_S
    """How long dead letters stay in the stream."""
