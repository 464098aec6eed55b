"""The record of a job, against stores that work, that fail, and that answer too late."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec import structs

from runnerd import File, Job, KeyValues, Rejected, Result, StoreError
from runnerd.record import Elsewhere, Entry, Records, digest_of
from stores import store

JOB = Job(id="j1", tenant="acme", lang="py", code="hi", env={"A": "1", "B": "2"})
OK = Result(id="j1", status="ok")


class Faulty:
    """A store that fails so many times, before or after it did what was asked."""

    value_bytes = 64 << 20

    def __init__(self, kv: KeyValues) -> None:
        self._kv = kv
        self.before = 0
        self.after = 0
        self.hang = False
        self.error: Exception = StoreError("out of reach")
        self.asked = 0

    def __getattr__(self, name: str) -> object:
        async def ask(*args: object) -> object:
            self.asked += 1
            if self.hang:
                await asyncio.Event().wait()
            if self.before > 0:
                self.before -= 1
                raise self.error
            answer = await getattr(self._kv, name)(*args)
            if self.after > 0:
                self.after -= 1
                raise self.error
            return answer

        return ask


@pytest.fixture
async def kv() -> AsyncIterator[Faulty]:
    async with store("memory").open_kv() as kv:
        yield Faulty(kv)


def records(kv: object, by: str = "one", patience_s: float = 0.3) -> Records:
    return Records(kv, by=by, result_ttl_s=60, patience_s=patience_s, most_owed=2)  # type: ignore[arg-type]


def test_the_digest_is_of_what_runs() -> None:
    same = [
        structs.replace(JOB, id="other", stream=True, queue_ttl_s=3.0, v=1),
        structs.replace(JOB, env={"B": "2", "A": "1"}),
    ]
    other = [
        structs.replace(JOB, code="ho"),
        structs.replace(JOB, stdin="x"),
        structs.replace(JOB, lang="js"),
        structs.replace(JOB, retry=False),
        structs.replace(JOB, retry_on=("oom",)),
    ]
    assert {digest_of(job) for job in same} == {digest_of(JOB)}
    assert digest_of(JOB) not in {digest_of(job) for job in other}


async def test_from_claim_to_result(kv: Faulty) -> None:
    it = records(kv)
    assert await it.find("acme", "j1") is None
    entry = await it.claim(JOB)
    assert (entry.record.state, entry.record.starts, entry.result) == ("queued", 0, None)
    assert await entry.start() is None
    assert (entry.record.state, entry.record.starts) == ("running", 1)
    await entry.give_back()
    assert (entry.record.state, entry.record.starts) == ("queued", 0)
    assert await entry.start() is None
    assert await entry.end(OK) == OK
    again = await records(kv, by="two").claim(JOB)
    assert (again.result, again.record.starts) == (OK, 1)
    assert await again.end(structs.replace(OK, status="failed")) == OK, "the first result stands"
    assert await again.start() == OK


async def test_a_start_that_came_to_its_end_counts_where_the_job_is_given_back(kv: Faulty) -> None:
    it = records(kv)
    entry = await it.claim(JOB, starting=True)
    assert await entry.start() is None
    entry.spend()
    await entry.give_back()
    assert (entry.record.state, entry.record.starts) == ("queued", 1)
    assert await entry.start() is None
    await entry.give_back()
    assert (entry.record.state, entry.record.starts) == ("queued", 1), "the second was cut short, and the first was not"


async def test_a_start_that_is_counted_with_the_claim(kv: Faulty) -> None:
    entry = await records(kv).claim(JOB, starting=True)
    assert (entry.record.state, entry.record.starts, entry.starts) == ("running", 1, 0)
    assert await entry.start() is None
    assert (kv.asked, entry.starts, entry.ahead) == (1, 1, False)
    assert await entry.end(OK) == OK


async def test_a_start_that_was_counted_and_did_not_begin_is_undone(kv: Faulty) -> None:
    entry = await records(kv).claim(JOB, starting=True)
    await entry.give_back()
    assert (entry.record.state, entry.record.starts, entry.starts) == ("queued", 0, 0)
    assert await entry.start() is None
    assert (entry.record.starts, entry.starts) == (1, 1)


async def test_a_claim_whose_answer_was_lost_has_counted_its_start(kv: Faulty) -> None:
    kv.after = 1
    entry = await records(kv).claim(JOB, starting=True)
    assert (entry.record.starts, entry.ahead) == (1, True)


async def test_a_start_counted_with_the_claim_can_be_taken_over(kv: Faulty) -> None:
    entry = await records(kv).claim(JOB, starting=True)
    other = await records(kv, "two").claim(JOB, starting=True)
    assert (other.ahead, other.starts) == (False, 1)
    assert await other.start() is None
    assert await entry.start() is None  # it can't know, and so may run; what it does leaves nothing
    with pytest.raises(Elsewhere):
        await entry.end(OK)
    assert (await other.end(OK), other.record.starts) == (OK, 2)


async def test_another_body_is_rejected(kv: Faulty) -> None:
    await records(kv).claim(JOB)
    other = structs.replace(JOB, code="ho")
    with pytest.raises(Rejected, match="id: j1 was used for another job"):
        await records(kv).claim(other)
    with pytest.raises(Rejected, match="id: j1 was used for another job"):
        await records(kv).result(other)
    assert (await records(kv).claim(structs.replace(other, tenant="else"))).record.starts == 0, "each tenant has ids of its own"


async def test_of_two_ends_one_stands(kv: Faulty) -> None:
    entries = [await records(kv, by=name).claim(JOB) for name in ("one", "two")]
    results = [structs.replace(OK, reason=name) for name in ("one", "two")]
    ends = await asyncio.gather(*(entry.end(result) for entry, result in zip(entries, results, strict=True)))
    assert ends[0] == ends[1]
    found = await records(kv).find("acme", "j1")
    assert found is not None
    assert found.result == ends[0]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("error", [StoreError("out of reach"), OSError("foreign"), TimeoutError()])
async def test_a_store_that_fails_for_a_while_counts_each_start_once(kv: Faulty, when: str, error: Exception) -> None:
    it = records(kv)
    kv.error = error

    async def claim() -> Entry:
        return await it.claim(JOB)

    setattr(kv, when, 2)
    entry = await claim()
    setattr(kv, when, 2)
    assert await entry.start() is None
    assert entry.record.starts == 1, "a write whose answer was lost is one's own"
    setattr(kv, when, 2)
    assert await entry.end(OK) == OK
    found = await it.find("acme", "j1")
    assert found is not None
    assert (found.result, found.record.starts) == (OK, 1)


async def test_patience_has_an_end(kv: Faulty) -> None:
    kv.before = 10_000
    with pytest.raises(StoreError, match="out of reach"):
        await records(kv).claim(JOB)
    assert 3 < kv.asked < 100, "asked again, and not in a rush"
    kv.error = OSError("foreign")
    with pytest.raises(StoreError, match="OSError: foreign"):
        await records(kv).claim(JOB)
    kv.hang = True
    with pytest.raises(StoreError, match=r"did not answer within 0\.02 s"):
        await records(kv, patience_s=0.02).claim(JOB)


async def test_a_result_that_is_not_recorded_says_so_and_is_held(kv: Faulty) -> None:
    it = records(kv, patience_s=0.02)
    entry = await it.claim(JOB)
    await entry.start()
    kv.before = 10_000
    given = await it.settle(entry, OK)
    assert given.status == "ok"
    assert given.reason == "the result could not be recorded: out of reach"
    assert (await it.claim(JOB)).result == given, "it is not run again"
    with pytest.raises(Rejected):
        await it.claim(structs.replace(JOB, code="ho"))
    with pytest.raises(StoreError):
        await it.settle_owed()
    kv.before = 0
    await it.settle_owed()
    assert (await records(kv).claim(JOB)).result == OK
    assert (await it.claim(JOB)).result == OK


async def test_what_is_no_record_is_a_store_error(kv: Faulty) -> None:
    await kv.put("jobs/acme/j1", b"nonsense")  # type: ignore[operator]
    with pytest.raises(StoreError, match="jobs/acme/j1 holds no record"):
        await records(kv).claim(JOB)


async def test_a_result_larger_than_a_value_stands_as_far_as_it_fits(kv: KeyValues) -> None:
    """It is recorded all the same, and says what is missing: for everyone."""
    small_records = Records(SmallValues(kv, 4096), by="d", result_ttl_s=60, patience_s=1, most_owed=10)
    entry = await small_records.claim(Job(id="big", tenant="t", lang="py", code="x"))
    await entry.start()
    standing = await entry.end(Result(id="big", status="ok", stdout="x" * 10_000, files=(File(name="f", data=bytes(5000)),)))
    assert standing.stdout_truncated
    assert 0 < len(standing.stdout) < 4096
    assert [skipped.name for skipped in standing.skipped] == ["f"]
    again = await small_records.claim(Job(id="big", tenant="t", lang="py", code="x"))
    assert again.result == standing


class SmallValues:
    """A store whose values are smaller than most results."""

    def __init__(self, kv: KeyValues, value_bytes: int) -> None:
        self._kv = kv
        self.value_bytes = value_bytes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kv, name)
