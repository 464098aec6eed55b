"""The record of a job in the key-value store: it decides that an id runs once and answers the same to all who ask.

There is one record per tenant and id. It is made before the job runs, counts the job's starts, and holds the result before
anybody is told. Every change is a compare-and-set, so of several writers one wins and the others adopt what it wrote.
A record that says `running` names the daemon. Where that one lives, the others leave the job alone; where it died, the job starts
again, within its starts. Who takes a job over writes so first: the former holder may only be slow, and can't record its start any more.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar

import msgspec
from msgspec import Struct

from .cut import cut_result
from .errors import Rejected, RunnerdError, StoreError
from .job import Job, Result
from .store import KeyValues

T = TypeVar("T")

_MARGIN = 1024
"""Bytes of a record around its result."""
_UNENDED_TTL_S = 86_400.0
"""How long the record of a job that did not end is kept at least: nobody may come back for it."""
_encoder = msgspec.msgpack.Encoder(order="deterministic")
_PLAIN = Job()
_BODY = tuple(name for name in Job.__struct_fields__ if name not in ("v", "id", "stream", "queue_ttl_s"))
"""What makes a job this job and no other, by field."""


class Record(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the store knows of one job."""

    digest: bytes
    """Of the job's body: the same id with another digest is another job. Empty where its id alone was known so far."""
    lang: str = ""
    state: Literal["queued", "running", "ended"] = "queued"
    starts: int = 0
    by: str = ""
    """Which daemon wrote this. A write whose answer was lost is known as one's own by it. Empty where the job was taken from one."""
    result: Result | None = None
    left: bytes = b""
    """What the job left in its session, as `workspace` wrote it, so that whoever comes next can put it in its place."""


_decoder = msgspec.msgpack.Decoder(Record)


def digest_of(job: Job) -> bytes:
    """What makes two submissions the same job: all but its id, and how it is waited for."""
    # by value, not by `omit_defaults`: that goes by identity, and so tells a decoded job from one that was constructed
    body = {name: value for name in _BODY if (value := getattr(job, name)) != getattr(_PLAIN, name)}
    return hashlib.blake2b(_encoder.encode(body), digest_size=16).digest()


class Elsewhere(RunnerdError):
    """Another daemon has the job: what this one did for it leaves nothing."""


class Entry:
    """One job's record in hand, with the revision that was read or written last."""

    def __init__(self, records: "Records", key: str, record: Record, revision: str, start: int = 0) -> None:
        self.key = key
        self.record = record
        self.owed: Result | None = None
        """The result, where the job ended and the store did not take it."""
        self._records = records
        self._revision = revision
        self._start = start
        """Which start of the job this daemon has in hand, 0 for none."""
        self._ahead = start > 0
        self._spent = False
        """Whether the start in hand came to its end, so that it counts whatever becomes of the job."""

    @property
    def result(self) -> Result | None:
        """The job's result, None where it has not ended."""
        return self.record.result or self.owed

    @property
    def starts(self) -> int:
        """How often the job has begun to run."""
        return self.record.starts - self.ahead

    @property
    def ahead(self) -> bool:
        """Whether a start is counted that has not begun."""
        return self._ahead and self._holds()

    async def start(self) -> Result | None:
        """Count a start, unless it is counted already. Returns the result instead where the job has ended meanwhile.

        Raises Elsewhere where another daemon that lives has started it, and StoreError.
        """
        ahead, self._ahead, self._spent = self.ahead, False, False
        if ahead:
            return None
        while self.record.result is None:
            if await self.elsewhere():
                raise Elsewhere(f"another daemon, {self.record.by}, runs the job")
            counted = msgspec.structs.replace(self.record, state="running", starts=self.record.starts + 1, by=self._records.by)
            if await self._write(counted):
                self._start = counted.starts
                return None
        return self.record.result

    def spend(self) -> None:
        """The start in hand came to its end, and another may follow."""
        self._spent = True

    async def give_back(self) -> None:
        """Give the job back, and undo a start that the daemon itself cut short: it says nothing against the job. Raises StoreError."""
        self._ahead = False
        while self._holds():
            starts = self.record.starts if self._spent else max(0, self.record.starts - 1)
            if await self._write(msgspec.structs.replace(self.record, state="queued", starts=starts, by=self._records.by)):
                self._start = 0

    async def end(self, result: Result, left: bytes = b"", *, force: bool = False) -> Result:
        """Record the result. Returns the one that stands: another's, where that was first.

        Raises StoreError, and Elsewhere where the job was taken from this daemon or never was its own, unless `force` says
        that this result holds for whoever runs it. Of a result that is larger than the store's values, less stands.
        """
        result = _fitting(result, self._records.kv.value_bytes - len(left) - _MARGIN)
        while self.record.result is None:
            if not force and not self._holds() and (self._start or await self.elsewhere()):
                raise Elsewhere("another daemon took the job over")
            await self._write(msgspec.structs.replace(self.record, state="ended", by=self._records.by, result=result, left=left))
        return self.record.result

    async def take_away(self) -> Result | None:
        """Take the job from the daemon that has it, so that its start leaves nothing. Returns the result where it ended before.

        Raises StoreError.
        """
        while self.record.result is None and (self.record.state == "running" or self.record.by):
            await self._write(msgspec.structs.replace(self.record, state="queued", by=""))
        return self.record.result

    async def refresh(self) -> None:
        """Read again what stands. Raises StoreError."""
        found = await self._records.patiently(lambda: self._records.kv.get(self.key))
        if found is not None:
            self.record, self._revision = _read(self.key, found[0]), found[1]

    async def elsewhere(self) -> bool:
        """Whether another daemon that lives runs the job. Raises StoreError."""
        record = self.record
        if record.state != "running" or record.by == self._records.by:
            return False
        return await self._records.patiently(lambda: self._records.alive(record.by))

    def _holds(self) -> bool:
        """Whether the start in hand is the one that the record says is running."""
        record = self.record
        return record.state == "running" and record.by == self._records.by and record.starts == self._start > 0

    async def _write(self, record: Record) -> bool:
        """Write, or take over what another wrote; whether `record` stands now."""
        value = _encoder.encode(record)
        ttl_s = self._records.ttl_s(record)
        kv = self._records.kv
        revision = await self._records.patiently(lambda: kv.compare_and_set(self.key, self._revision, value, ttl_s))
        if revision is not None:
            self.record, self._revision = record, revision
            return True
        # Another was faster, or our own write stands and its answer was lost, or the record is gone and we put it back.
        _, standing, self._revision = await self._records.patiently(lambda: kv.put_if_absent(self.key, value, ttl_s))
        self.record = _read(self.key, standing)
        return standing == value


async def _nobody_lives(_by: str) -> bool:
    return False


class Records:
    """The records of all jobs, in one key-value store."""

    def __init__(
        self,
        kv: KeyValues,
        *,
        by: str,
        result_ttl_s: float,
        patience_s: float,
        most_owed: int,
        alive: Callable[[str], Awaitable[bool]] = _nobody_lives,
    ) -> None:
        """`by`: this daemon's name. `patience_s`: how long a store that fails is tried again before StoreError is raised.

        `most_owed`: results held that the store did not take. `alive`: whether the daemon of a name lives.
        """
        self.kv = kv
        self.by = by
        self.alive = alive
        self._result_ttl_s = result_ttl_s
        self._patience_s = patience_s
        self._most_owed = most_owed
        self._owed: dict[str, tuple[Entry, Result, bool]] = {}

    async def claim(self, job: Job, *, starting: bool = False) -> Entry:
        """The job's record, made if there is none. Raises Rejected where it is of another job, and StoreError.

        `starting`: the job is about to begin, so its first start is counted in the same write.
        """
        key = _key(job.tenant, job.id)
        if key in self._owed:
            entry, result, force = self._owed[key]
            _same(job, digest_of(job), entry.record)
            try:
                await self.settle(entry, result, force=force)
            except Elsewhere:
                del self._owed[key]
            else:
                return entry
        start = 1 if starting else 0
        record = Record(digest=digest_of(job), lang=job.lang, state="running" if start else "queued", starts=start, by=self.by)
        value = _encoder.encode(record)
        _, standing, revision = await self.patiently(lambda: self.kv.put_if_absent(key, value, self.ttl_s(record)))
        if standing == value:  # written now, or before and its answer was lost
            return Entry(self, key, record, revision, start)
        return Entry(self, key, _same(job, record.digest, _read(key, standing)), revision)

    async def find(self, tenant: str, job_id: str) -> Entry | None:
        """A job's record, None where there is none. Raises StoreError."""
        key = _key(tenant, job_id)
        if key in self._owed:
            return self._owed[key][0]
        found = await self.patiently(lambda: self.kv.get(key))
        return None if found is None else Entry(self, key, _read(key, found[0]), found[1])

    async def reserve(self, tenant: str, job_id: str) -> Entry:
        """A job's record, made where there is none for whatever job comes under its id. Raises StoreError."""
        entry = await self.find(tenant, job_id)
        if entry is not None:
            return entry
        key, record = _key(tenant, job_id), Record(digest=b"", by=self.by)
        value = _encoder.encode(record)
        _, standing, revision = await self.patiently(lambda: self.kv.put_if_absent(key, value, self.ttl_s(record)))
        return Entry(self, key, _read(key, standing), revision)

    async def result(self, job: Job) -> Result | None:
        """The result of a job that ended already. Raises Rejected where its id is another job's, and StoreError."""
        entry = await self.find(job.tenant, job.id)
        if entry is None:
            return None
        _same(job, digest_of(job), entry.record)
        return entry.result

    async def settle(self, entry: Entry, result: Result, *, force: bool = False) -> Result:
        """Record a result. Returns the one that stands: another's, where that was first.

        Where the store does not take it, the result says so, this daemon holds it for all who ask, and `settle_owed` tries again.
        Raises Elsewhere, see `Entry.end`.
        """
        try:
            standing = await entry.end(result, force=force)
        except StoreError as error:
            if len(self._owed) < self._most_owed:
                self._owed[entry.key] = (entry, result, force)
            unrecorded = f"the result could not be recorded: {error}"
            entry.owed = msgspec.structs.replace(result, reason=f"{result.reason}; {unrecorded}" if result.reason else unrecorded)
            return entry.owed
        self._owed.pop(entry.key, None)
        return standing

    def owe(self, job: Job, result: Result) -> None:
        """Hold the result of a job whose record could not even be made, for all who ask, until `settle_owed` has recorded it."""
        key = _key(job.tenant, job.id)
        if len(self._owed) < self._most_owed and key not in self._owed:
            entry = Entry(self, key, Record(digest=digest_of(job), lang=job.lang), "")
            entry.owed = result
            self._owed[key] = (entry, result, True)

    async def wait_for_others(self, entry: Entry) -> None:
        """Wait while another daemon that lives runs the job, until it has ended there or may be started here. Raises StoreError."""
        pause_s = 0.02
        while await entry.elsewhere():
            await asyncio.sleep(pause_s)  # no store tells when an entry of another daemon's changes
            pause_s = min(0.5, pause_s * 2)
            await entry.refresh()

    async def settle_owed(self) -> None:
        """Try again to record the results that the store did not take. Raises StoreError at the first that it still does not."""
        for entry, result, force in list(self._owed.values()):
            try:
                standing = await self.settle(entry, result, force=force)
            except Elsewhere:
                del self._owed[entry.key]
                continue
            if entry.key in self._owed:
                raise StoreError(standing.reason)

    def ttl_s(self, record: Record) -> float:
        """How long a record is kept."""
        return self._result_ttl_s if record.state == "ended" else max(self._result_ttl_s, _UNENDED_TTL_S)

    async def patiently(self, act: Callable[[], Awaitable[T]]) -> T:
        """Ask the store, and ask again while it fails, for `patience_s` at most. Raises StoreError."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience_s
        pause_s = 0.02
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    return await act()
            except Exception as error:  # a store is a plugin: whatever it raises is a store that fails
                if loop.time() + pause_s >= deadline:
                    raise error if isinstance(error, StoreError) else StoreError(_failure(error, self._patience_s)) from error
            await asyncio.sleep(pause_s)
            pause_s = min(1.0, pause_s * 2)


def _fitting(result: Result, most: int) -> Result:
    """A result that takes at most so many bytes: its largest files and the end of its output left out, and told, where need be."""
    output = len(result.stdout) + len(result.stderr) + len(result.stdout_bytes or b"") + len(result.stderr_bytes or b"")
    if 4 * (output + sum(len(file.content) for file in result.files)) <= most and result.compile is None:
        return result  # whatever the text is in UTF-8
    body, cut = cut_result(result, _encoder.encode, most)
    return msgspec.msgpack.decode(body, type=Result) if cut else result


def same_job(job: Job, other: Job) -> None:
    """Raises Rejected where two jobs of one id are not the same job."""
    if job is not other and digest_of(job) != digest_of(other):
        raise Rejected(_ANOTHER.format(job.id))


_ANOTHER = "id: {} was used for another job: give each job an id of its own"


def _failure(error: Exception, patience_s: float) -> str:
    if isinstance(error, TimeoutError):
        return f"the key-value store did not answer within {patience_s:g} s"
    return f"the key-value store failed: {type(error).__name__}: {error}"


def _same(job: Job, digest: bytes, record: Record) -> Record:
    if record.digest and record.digest != digest:
        raise Rejected(_ANOTHER.format(job.id))
    return record


def _key(tenant: str, job_id: str) -> str:
    return f"jobs/{tenant}/{job_id}"


def _read(key: str, value: bytes) -> Record:
    try:
        return _decoder.decode(value)
    except msgspec.DecodeError as error:
        raise StoreError(f"{key} holds no record of a job: {error}") from None
