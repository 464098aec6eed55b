"""What JetStream says of a message that it delivers, and what the message's subject says. Plain code, no I/O."""

import math
import re
from collections.abc import Mapping
from datetime import datetime

from msgspec import Struct

from runnerd import TOKEN

from ..refusal import BAD_REQUEST, Refusal

_TTL = re.compile(r"[1-9]\d{0,7}(s|m|h)?")
_ACK = "$JS.ACK."
_NS = 1_000_000_000


class Origin(Struct, frozen=True, kw_only=True):
    """Where a message stands in its stream, from the subject on which it is acked."""

    stream: str
    consumer: str
    deliveries: int
    """How often it was delivered, this time included: more often than it was started."""
    seq: int
    stored_ns: int
    """When, in nanoseconds since 1970, by the server's clock."""
    waiting: int
    """Messages behind it that the consumer has not delivered."""

    @property
    def key(self) -> tuple[str, int]:
        """What it is the same message by."""
        return self.stream, self.seq

    @property
    def id(self) -> str:
        """A job id that each delivery of the message has in common, and no other message has."""
        return f"js-{self.stored_ns}-{self.seq}"


def origin(ack: str) -> Origin | None:
    """Read the subject on which a message is acked; None where it is none."""
    parts = ack.split(".")
    if not ack.startswith(_ACK) or len(parts) < 9:
        return None
    # $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>, and since 2.2 with
    # <domain>.<account> before and a random token behind
    stream, consumer, *numbers = parts[2:9] if len(parts) == 9 else parts[4:11]
    try:
        deliveries, seq, _, stored_ns, waiting = map(int, numbers)
    except ValueError:
        return None
    return Origin(stream=stream, consumer=consumer, deliveries=deliveries, seq=seq, stored_ns=stored_ns, waiting=waiting)


class Address(Struct, frozen=True, kw_only=True):
    """What a subject of a durable job says."""

    tenant: str
    cls: str
    lang: str
    job: str = ""


def address(subject: str, prefix: str) -> Address:
    """Read `<prefix>.job.<tenant>.<class>.<lang>` or `….<lang>.<job>`, or the same with `due`. Raises Refusal."""
    tokens = subject[len(prefix) + 1 :].split(".")[1:]
    if not subject.startswith(prefix + ".") or len(tokens) not in (3, 4):
        raise Refusal(BAD_REQUEST, f"subject: {subject[:80]!r} is not job.<tenant>.<class>.<lang>, with the job's id behind it or not")
    for name, token in zip(("tenant", "class", "language", "job"), tokens, strict=False):
        if not TOKEN.fullmatch(token):
            raise Refusal(BAD_REQUEST, f"{name} in the subject: {token[:80]!r} must match {TOKEN.pattern}")
    return Address(tenant=tokens[0], cls=tokens[1], lang=tokens[2], job=tokens[3] if len(tokens) == 4 else "")


def scheduled_by(headers: Mapping[str, str], prefix: str) -> str | None:
    """The tenant who had the message delayed, None where it was not. `headers` are folded; the server sees to this one."""
    schedule = headers.get("nats-scheduler", "")
    tokens = schedule.removeprefix(f"{prefix}.sched.").split(".")
    return tokens[0] if schedule.startswith(f"{prefix}.sched.") else None


def queue_ttl_s(headers: Mapping[str, str], stored_ns: int) -> float | None:
    """How long from its storing on a job may wait until `Rd-Deadline`, None where there is none. Raises Refusal."""
    text = headers.get("rd-deadline", "")
    if not text:
        return None
    try:
        deadline = datetime.fromisoformat(text)
        left_s = deadline.timestamp() - stored_ns / _NS if deadline.tzinfo else math.nan
    except (ValueError, OverflowError):
        left_s = math.nan
    if not math.isfinite(left_s):
        raise Refusal(BAD_REQUEST, f"Rd-Deadline: {text[:40]!r} must be a time with its zone, such as 2030-01-31T12:00:00Z")
    return left_s


def result_ttl(headers: Mapping[str, str]) -> str:
    """`Rd-Result-Ttl`, empty where there is none: whole seconds, or such as `15m` and `36h`. Raises Refusal."""
    text = headers.get("rd-result-ttl", "")
    if text and not _TTL.fullmatch(text):
        raise Refusal(BAD_REQUEST, f"Rd-Result-Ttl: {text[:40]!r} must be a whole number of seconds, or end with s, m or h")
    return text
