"""What arrives, as a job that the scheduler takes: decoded, checked, with its id, its tenant and its language's code."""

import difflib
from collections.abc import Iterable, Mapping
from typing import cast

import anyio.to_thread
import msgspec
from msgspec import Struct

from .codec import decode_job
from .encoding import decompressed
from .errors import Rejected
from .job import RETRY_ON, TOKEN, Job, Result, RetryOn, new_id
from .spec import Delivery
from .validity import check_job, check_retry_on

TENANT = "default"
"""Whose jobs they are where nobody says."""


class Arrival(Struct, frozen=True, kw_only=True):
    """A job that came, and whether its caller gave the id."""

    job: Job
    owned: bool
    kept: bool = False
    """Whether its bus keeps it, see `Delivery.kept`."""


class Names:
    """The languages' codes and aliases."""

    def __init__(self, codes: Iterable[str], aliases: Mapping[str, str]) -> None:
        self._codes = frozenset(codes)
        self._aliases = {alias.lower(): code for alias, code in aliases.items() if code in self._codes}

    def code(self, name: str) -> str:
        """The code of the language that a body names, by code or alias. Raises Rejected."""
        if name in self._codes:
            return name
        code = self._aliases.get(name.lower()) or (name.lower() if name.lower() in self._codes else None)
        if code is None:
            raise self._unknown(name)
        return code

    def exact(self, code: str) -> str:
        """The code that a subject names; aliases don't count there. Raises Rejected."""
        if code in self._codes:
            return code
        if (meant := self._aliases.get(code.lower())) is not None:
            raise Rejected(f"lang: a subject names languages by their codes: use {meant!r} in place of {code!r}")
        raise self._unknown(code)

    def _unknown(self, name: str) -> Rejected:
        near = difflib.get_close_matches(name.lower(), [*self._codes, *self._aliases], n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(self._codes))}"
        return Rejected(f"lang: no language {name[:80]!r} here: {hint}")


async def plain(came: Job | Delivery, most: int) -> Job | Delivery:
    """What came, its body decompressed to at most `most` bytes. Raises Rejected."""
    if isinstance(came, Job) or not came.content_encoding:
        return came
    # in a thread, as a small body can hold much work: jobs in hand go on meanwhile
    body = await anyio.to_thread.run_sync(decompressed, came.body, came.content_encoding, most)
    return msgspec.structs.replace(came, body=body, content_encoding="")


def arrival(came: Job | Delivery, names: Names) -> Arrival:
    """Make a job of what came. Raises Rejected, naming the field and the fix."""
    if isinstance(came, Delivery):
        job = _merged(decode_job(came.body, came.content_type), came, names)
    else:
        check_job(came)
        job = came
    if not job.lang:
        raise Rejected("lang: missing: name the language")
    known = msgspec.structs.replace(job, id=job.id or new_id(), tenant=job.tenant or TENANT, lang=names.code(job.lang))
    if job.retry_on:  # in one order: two that ask for the same are the same job
        known = msgspec.structs.replace(known, retry_on=_in_order(job.retry_on))
    if isinstance(came, Delivery) and came.retry_on:
        check_retry_on(known)
    return Arrival(job=known, owned=bool(job.id), kept=isinstance(came, Delivery) and came.kept)


def refusal(came: Job | Delivery, error: Rejected) -> Result:
    """The result of what could not be made a job, with as much of its names as came with it."""
    job_id = came.job_id or came.message_id if isinstance(came, Delivery) else came.id
    lang = came.lang
    return Result(
        id=job_id if TOKEN.fullmatch(job_id) else new_id(),
        tenant=came.tenant if TOKEN.fullmatch(came.tenant) else TENANT,
        lang=lang if TOKEN.fullmatch(lang) else "",
        status="rejected",
        reason=str(error),
    )


def _merged(job: Job, delivery: Delivery, names: Names) -> Job:
    """The body, and what the bus said around it; where both speak, they must say the same."""
    for field, value in (("id", delivery.job_id), ("tenant", delivery.tenant)):
        if value and not TOKEN.fullmatch(value):
            raise Rejected(f"{field}: {value[:80]!r}, as it came beside the body, must match {TOKEN.pattern}")
    lang = names.exact(delivery.lang) if delivery.lang else job.lang
    if delivery.lang and job.lang and names.code(job.lang) != lang:
        raise Rejected(f"lang: the body says {job.lang[:80]!r}, the subject {lang!r}: leave it out of the body")
    queue_ttl_s = _smaller(job.queue_ttl_s, delivery.queue_ttl_s)
    return msgspec.structs.replace(
        job,
        id=_agreed("id", job.id, delivery.job_id) or delivery.message_id,
        tenant=_agreed("tenant", job.tenant, delivery.tenant),
        lang=lang,
        stream=job.stream or delivery.stream,
        limits=msgspec.structs.replace(job.limits, wall_s=_smaller(job.limits.wall_s, delivery.wall_s)),
        queue_ttl_s=None if queue_ttl_s is None else queue_ttl_s - delivery.waited_s,
        retry_on=(*job.retry_on, *_known(delivery.retry_on)),
    )


def _known(statuses: tuple[str, ...]) -> tuple[RetryOn, ...]:
    for status in statuses:
        if status not in RETRY_ON:
            raise Rejected(f"retry_on: {status[:40]!r}, as it came beside the body, is not known: use {' or '.join(RETRY_ON)}")
    return cast(tuple[RetryOn, ...], statuses)


def _in_order(statuses: tuple[RetryOn, ...]) -> tuple[RetryOn, ...]:
    return tuple(status for status in RETRY_ON if status in statuses)


def _smaller(inside: float | None, beside: float | None) -> float | None:
    return min((each for each in (inside, beside) if each is not None), default=None)


def _agreed(field: str, inside: str, beside: str) -> str:
    if inside and beside and inside != beside:
        raise Rejected(f"{field}: the body says {inside!r}, and {beside!r} came beside it: give one of them")
    return inside or beside
