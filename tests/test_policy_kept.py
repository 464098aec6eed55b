"""The policy of sandboxes that are kept, without a loop."""

from msgspec import structs

from runnerd.policy import Policy, PoolSettings, Seat, Stay, Waiter

QUICK = PoolSettings(backoff_s=0.001, backoff_most_s=0.004)


def a_policy(warm: int = 0, slots: int = 2, **settings: object) -> Policy:
    return Policy(warm, slots, structs.replace(QUICK, **settings), keeps=True)  # type: ignore[arg-type]


def keep(policy: Policy, key: str, mark: str = "1", now: float = 0.0) -> Seat:
    seat = Seat()
    seat.state = "leased"
    policy.leased[seat] = None
    policy.keep(seat, Stay(("t", key), mark), now)
    return seat


def test_only_for_the_same_and_as_it_was_left() -> None:
    policy = a_policy()
    seat, other = keep(policy, "a"), keep(policy, "b")
    assert policy.resume(Stay(("else", "a"), "1")) == (None, [])
    assert policy.resume(Stay(("t", "c"), "1")) == (None, [])
    assert policy.resume(Stay(("t", "a"), "1")) == (seat, [])
    assert policy.resume(Stay(("t", "a"), "1")) == (None, []), "it is leased"
    assert policy.resume(Stay(("t", "b"), "2")) == (None, [other]), "whoever finds it stale ends it"
    assert (seat.state, other.state) == ("leased", "ending")
    assert policy.take("t") is None, "nobody gets one that is kept in another way"


def test_the_idle_and_the_surplus_end_the_one_used_longest_ago_first() -> None:
    policy = a_policy(kept=2, kept_idle_s=10)
    seats = [keep(policy, key, now=float(now)) for now, key in enumerate("abc")]
    plan = policy.plan(3.0)
    assert (plan.close, plan.again_at) == ([seats[0]], 11.0)
    assert policy.plan(11.0).close == [seats[1]]
    assert policy.plan(12.0).close == [seats[2]]
    assert policy.plan(13.0).again_at is None


def test_those_who_wait_take_their_room_and_no_more() -> None:
    policy = a_policy(kept=5, alive=3)
    seats = [keep(policy, key) for key in "abc"]
    policy.waiting[Waiter("t")] = None
    plan = policy.plan(0.0)
    assert (plan.close, plan.start) == ([seats[0]], [])
    assert policy.plan(0.0).close == [], "one ends already"
    policy.gone(seats[0])
    assert len(policy.plan(0.0).start) == 1


def test_where_nothing_starts_they_make_room_one_by_one() -> None:
    policy = a_policy(kept=5)
    first, _ = keep(policy, "a"), keep(policy, "b")
    policy.failing = "quota exceeded"
    assert policy.plan(0.0).close == []
    policy.waiting[Waiter("t")] = None
    assert policy.plan(0.0).close == [first]
    assert policy.plan(0.0).close == []


def test_where_nothing_may_be_kept_there_is_no_room_for_it() -> None:
    assert Policy(1, 2, QUICK).limit == 3
    assert a_policy(1, kept=4).limit == 7
