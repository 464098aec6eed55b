"""The pool against an executor in memory, and its policy without a loop."""

import asyncio
import random

import pytest
from msgspec import structs

from fake_executor import FakeExecutor, FakeSandbox, a_language, sometimes, wait_until
from runnerd import SandboxError
from runnerd.policy import Policy, PoolSettings, Seat, Waiter
from runnerd.pool import Pool, open_pool

QUICK = PoolSettings(backoff_s=0.001, backoff_most_s=0.004)
PY = a_language("py", warm=3)


def full(pool: Pool) -> bool:
    return len(pool.policy.warm) == pool.policy.target


async def test_fills_itself_and_shows_it() -> None:
    executor = FakeExecutor()
    async with open_pool(executor, PY, QUICK) as pool:
        await pool.warmed()
        assert repr(pool) == "<Pool py [warm 3/3 | starting 0 | leased 0 | waiting 0]>"
        health = pool.health()
        assert (health.pop("starts"), health.pop("failed_starts"), health.pop("wait_ms")) == (3, 0, 0.0)
        assert health.pop("start_ms") >= 0
        assert health == {
            "reuse": "job", "warm": 3, "starting": 0, "leased": 0, "kept": 0, "ending": 0, "waiting": 0, "target": 3,
            "limit": 13, "failing": "",
        }  # fmt: skip
    assert executor.alive == 0
    assert all(sandbox.closed == 1 for sandbox in executor.closed)


async def test_a_lease_is_used_once_and_refilled_before_it_ends() -> None:
    executor = FakeExecutor()
    async with open_pool(executor, PY, QUICK) as pool:
        await pool.warmed()
        async with pool.lease() as leased:
            first = leased.sandbox
            assert leased.warm
            await wait_until(lambda: full(pool), "refilled while leased")
        async with pool.lease() as leased:
            assert leased.sandbox is not first
        await wait_until(lambda: executor.alive == 3, "the leased ones are gone")
    assert executor.tried == 5


async def test_no_warm_sandboxes_means_one_on_demand() -> None:
    executor = FakeExecutor()
    async with open_pool(executor, a_language(warm=0), QUICK) as pool:
        await pool.warmed()
        assert executor.tried == 0
        async with pool.lease() as leased:
            assert not leased.warm
        await wait_until(lambda: executor.alive == 0, "ended with its lease")
        assert executor.tried == 1


async def test_the_end_of_a_sandbox_is_off_the_jobs_path() -> None:
    executor = FakeExecutor()
    async with open_pool(executor, a_language(warm=1), QUICK, slots=2) as pool:
        await pool.warmed()
        executor.may_close.clear()
        async with pool.lease():
            pass
        await wait_until(lambda: bool(pool.policy.ending) and full(pool), "ending in the background, refilled already")
        async with pool.lease() as leased:
            assert leased.warm
        executor.may_close.set()


async def test_the_limit_counts_those_that_end() -> None:
    executor = FakeExecutor()
    settings = structs.replace(QUICK, alive=2)
    async with open_pool(executor, a_language(warm=1), settings) as pool:
        await pool.warmed()
        executor.may_close.clear()
        for _ in range(2):
            async with pool.lease():
                pass
        lease = pool.lease()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await lease.__aenter__()
        executor.may_close.set()
        async with pool.lease():
            pass
    assert executor.most_alive == 2


async def test_resizes_while_it_works() -> None:
    executor = FakeExecutor()
    async with open_pool(executor, PY, QUICK) as pool:
        for warm in (5, 1, 0, 2):
            pool.resize(warm)
            await wait_until(lambda warm=warm: len(executor.sandboxes) == warm and full(pool), f"{warm} warm")  # type: ignore[misc]


async def test_a_lost_warm_sandbox_is_replaced() -> None:
    executor = FakeExecutor()
    async with open_pool(executor, PY, QUICK) as pool:
        await pool.warmed()
        lost = next(iter(executor.sandboxes))
        lost.lose()
        await wait_until(lambda: lost.closed == 1 and full(pool), "replaced")


async def test_an_old_warm_sandbox_is_replaced_but_never_under_a_job() -> None:
    executor = FakeExecutor()
    settings = structs.replace(QUICK, max_age_s=0.02)
    async with open_pool(executor, a_language(warm=1), settings) as pool, pool.lease() as leased:
        await wait_until(lambda: len(executor.closed) >= 3, "others were replaced")
        assert isinstance(leased.sandbox, FakeSandbox)
        assert leased.sandbox.closed == 0


async def test_failing_starts_tell_who_waits_and_the_reason_is_kept() -> None:
    failing = True
    executor = FakeExecutor(fails=lambda: failing)
    async with open_pool(executor, PY, QUICK) as pool:
        await pool.warmed()
        assert pool.failing() == "no room on this machine"
        with pytest.raises(SandboxError, match="no room on this machine"):
            async with pool.lease():
                pass
        failing = False
        await wait_until(lambda: full(pool), "filled once starts succeed")
        assert pool.failing() == ""


async def test_a_start_that_hangs_or_raises_anything_has_failed() -> None:
    executor = FakeExecutor()
    executor.may_start.clear()
    async with open_pool(executor, a_language(), structs.replace(QUICK, start_timeout_s=0.01)) as pool:
        with pytest.raises(SandboxError, match="not started within"):
            async with pool.lease():
                pass
        executor.may_start.set()
        executor.fails = lambda: 1 / 0 > 0
        with pytest.raises(SandboxError, match="ZeroDivisionError"):
            async with pool.lease():
                pass
    assert executor.alive == 0


async def test_an_end_that_hangs_is_cut_off() -> None:
    executor = FakeExecutor()
    async with open_pool(executor, a_language(), structs.replace(QUICK, close_timeout_s=0.01)) as pool:
        executor.may_close.clear()
        async with pool.lease():
            pass
        await wait_until(lambda: executor.alive == 0, "cut off")


async def test_a_lease_prefers_its_tenants_sandbox_then_nobodys() -> None:
    executor = FakeExecutor()
    async with open_pool(executor, PY, QUICK) as pool:
        await pool.warmed()
        for sandbox, tenant in zip(executor.sandboxes, ("other", "", "mine"), strict=True):
            sandbox.tenant = tenant
        wanted = [sandbox for tenant in ("mine", "", "other") for sandbox in executor.sandboxes if sandbox.tenant == tenant]
        executor.may_start.clear()
        async with pool.lease("mine") as first, pool.lease("mine") as second, pool.lease("mine") as third:
            assert [first.sandbox, second.sandbox, third.sandbox] == wanted
        executor.may_start.set()


async def test_five_hundred_claims_on_a_hundred_warm_give_each_once() -> None:
    executor = FakeExecutor()
    async with open_pool(executor, a_language(warm=100), structs.replace(QUICK, batch=100), slots=500) as pool:
        await pool.warmed()
        leases = [pool.lease(str(i % 7)) for i in range(500)]
        given = [leased.sandbox for leased in await asyncio.gather(*(lease.__aenter__() for lease in leases))]
        assert len(set(given)) == 500
        assert sum(lease.warm for lease in leases) == 100
        for lease in leases:
            await lease.__aexit__()
        await wait_until(lambda: executor.alive == 100, "only the warm ones are left")


async def test_closing_ends_everything_even_when_cancelled_twice() -> None:
    executor = FakeExecutor(close_s=0.01)

    async def hold() -> None:
        async with open_pool(executor, PY, QUICK) as pool:
            await pool.warmed()
            async with pool.lease():
                await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    await wait_until(lambda: len(executor.sandboxes) >= 4, "leased and refilled")
    task.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert executor.alive == 0
    assert all(sandbox.closed == 1 for sandbox in executor.closed)


async def test_an_error_in_the_block_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError, match="mine"):
        async with open_pool(FakeExecutor(), PY, QUICK):
            raise KeyError("mine")


@pytest.mark.parametrize("seed", range(6))
async def test_no_cancellation_leaks_a_sandbox(seed: int) -> None:
    chance = random.Random(seed)
    executor = FakeExecutor(start_s=0.001, close_s=0.001, fails=sometimes(seed, 0.1))
    warm = chance.choice((0, 1, 4))
    served = 0

    async def use(pool: Pool) -> None:
        nonlocal served
        await asyncio.sleep(chance.random() * 0.2)
        async with pool.lease(chance.choice(("", "a", "b"))) as leased:
            served += 1
            assert isinstance(leased.sandbox, FakeSandbox)
            assert leased.sandbox.closed == 0
            assert leased.sandbox.runs == 0
            leased.sandbox.runs = 1
            if chance.random() < 0.05:
                leased.sandbox.lose()
            await asyncio.sleep(chance.random() * 0.003)
            assert leased.sandbox.closed == 0

    async with open_pool(executor, a_language(warm=warm), structs.replace(QUICK, alive=8), slots=8) as pool:
        users = [asyncio.create_task(use(pool)) for _ in range(600)]
        while not all(user.done() for user in users):
            chance.choice(users).cancel()
            if executor.sandboxes and chance.random() < 0.05:
                chance.choice(list(executor.sandboxes)).lose()
            await asyncio.sleep(chance.random() * 0.001)
        outcomes = await asyncio.gather(*users, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {type(None), asyncio.CancelledError, SandboxError}
        assert served > 50
        assert executor.most_alive <= 8
        executor.fails = lambda: False
        await wait_until(lambda: len(executor.sandboxes) == executor.alive == warm and full(pool), "only the warm ones are left")
        async with asyncio.TaskGroup() as tasks:
            holders = [tasks.create_task(pool.lease().__aenter__()) for _ in range(8)]
        assert len({leased.result().sandbox for leased in holders}) == 8, "all can be leased"
        for leased in holders:
            await leased.result().__aexit__()
    assert executor.alive == 0
    assert all(sandbox.closed == 1 for sandbox in executor.closed)


# The policy alone: no loop, no clock.


def policy(target: int = 0, slots: int = 10, **settings: object) -> Policy:
    return Policy(target, slots, PoolSettings(**settings), jitter=lambda: 1.0)  # type: ignore[arg-type]


def started(policy: Policy, now: float) -> list[Seat]:
    """Plan, and let all starts succeed."""
    seats = policy.plan(now).start
    for seat in seats:
        policy.ready(seat, FakeSandbox.__new__(FakeSandbox), now)
        seat.sandbox.tenant = ""  # type: ignore[union-attr]
    return seats


def test_refill_starts_with_the_lease_and_in_batches() -> None:
    it = policy(target=7, batch=3)
    assert len(started(it, 0)) == 3
    assert len(started(it, 0)) == 3
    assert len(started(it, 0)) == 1
    assert it.plan(0).again_at is None, "nothing to do, no timer"
    assert it.take("") is not None
    assert len(it.plan(0).start) == 1


def test_an_interval_is_the_least_time_between_batches() -> None:
    it = policy(target=4, batch=2, refill_interval_s=2.0)
    assert len(started(it, 100)) == 2
    assert it.plan(101) == ([], [], [], 102.0)
    assert len(started(it, 102)) == 2
    it.take("")
    assert it.plan(103).again_at == 104.0
    assert len(it.plan(104).start) == 1


def test_without_refill_on_lease_only_the_interval_counts() -> None:
    it = policy(target=2, refill_on_lease=False)
    assert len(started(it, 100)) == 2
    assert it.plan(100).again_at == 102.0, "the source system's interval"
    assert it.plan(102) == ([], [], [], 104.0)
    it.take("")
    assert it.plan(102.5) == ([], [], [], 104.0)
    assert len(it.plan(104).start) == 1


def test_who_waits_gets_a_start_beside_batch_and_interval() -> None:
    it = policy(target=1, batch=1, refill_interval_s=60.0)
    started(it, 0)
    it.take("")
    waiters = [Waiter(""), Waiter("")]
    it.waiting.update(dict.fromkeys(waiters))
    assert len(started(it, 1)) == 2
    assert [waiter for waiter, _ in it.plan(1).hand] == waiters


def test_back_off_doubles_is_bounded_and_forgets() -> None:
    it = policy(target=5, backoff_s=1.0, backoff_most_s=4.0, settle_s=5.0)
    seats = it.plan(0).start
    for seat in seats:
        it.failed(seat, "no", 0)
        it.gone(seat)
    waits, now = [], 0.0
    for _ in range(4):
        again_at = it.plan(now).again_at
        assert again_at is not None
        waits.append(again_at - now)
        now = again_at
        (seat,) = it.plan(now).start  # one at a time
        it.failed(seat, "no", now)
        it.gone(seat)
    assert waits == [1.0, 2.0, 4.0, 4.0]
    now += 4
    assert len(started(it, now)) == 1
    assert it.failing == ""
    assert len(started(it, now)) == 4
    now += 10
    it.take("")
    (seat,) = it.plan(now).start
    it.failed(seat, "no", now)
    assert it.plan(now).again_at == now + 1.0


def test_sandboxes_that_die_young_are_failing_starts() -> None:
    it = policy(target=1, backoff_s=1.0)
    now, waits = 0.0, []
    for _ in range(3):
        (seat,) = started(it, now)
        it.lost(seat, "died", now + 0.1)
        it.gone(seat)
        again_at = it.plan(now + 0.1).again_at
        assert again_at is not None
        waits.append(round(again_at - now - 0.1, 6))
        now = again_at
    assert waits == [1.0, 2.0, 4.0]


def test_a_failed_start_tells_nobody_whom_another_can_serve() -> None:
    it = policy()
    first, second = Waiter(""), Waiter("")
    it.waiting.update({first: None, second: None})
    one, two = it.plan(0).start
    del it.waiting[second]
    assert it.failed(one, "no", 0) is None
    assert it.failed(two, "no", 0) is first


def test_surplus_ends_oldest_first() -> None:
    it = policy(target=3)
    seats = started(it, 0)
    it.target = 1
    assert it.plan(1).close == seats[:2]


def test_pool_settings_give_targets() -> None:
    assert PoolSettings().target(PY) == 3
    assert PoolSettings(enabled=False).target(PY) == 0
