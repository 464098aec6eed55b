"""What the durable path decides without any I/O."""

import random

import msgspec
import pytest
from runnerd_plugins.ingress.nats.jetstream.asking import Ask, Feed, asks
from runnerd_plugins.ingress.nats.jetstream.message import address, origin, queue_ttl_s, result_ttl, scheduled_by
from runnerd_plugins.ingress.nats.jetstream.settings import JetStream
from runnerd_plugins.ingress.nats.jetstream.topology import Topology, differences
from runnerd_plugins.ingress.nats.refusal import Refusal

TOPOLOGY = Topology(prefix="rd.v1", settings=JetStream(), version=(2, 15))


def feeds(*waiting: int) -> list[Feed]:
    found = [Feed(consumer) for consumer in TOPOLOGY.consumers()[: len(waiting)]]
    for feed, number in zip(found, waiting, strict=True):
        feed.waiting = number
    return found


def shape(found: list[Ask]) -> list[tuple[str, int, bool]]:
    return [(ask.feed.consumer.name, ask.batch, ask.idle) for ask in found]


@pytest.mark.parametrize(
    ("waiting", "room", "reserved", "expected"),
    [
        ((0, 0), 0, 0, []),
        ((0, 0), 5, 0, [("rd-hi", 1, True), ("rd-due", 1, True)]),
        ((9, 9), 5, 0, [("rd-hi", 5, False)]),
        ((2, 9), 5, 0, [("rd-hi", 2, False), ("rd-due", 3, False)]),
        ((0, 9), 5, 2, [("rd-hi", 1, True), ("rd-due", 3, False)]),
        ((0, 9), 2, 2, [("rd-hi", 1, True)]),
    ],
)
def test_asks_by_class_and_room(waiting: tuple[int, ...], room: int, reserved: int, expected: list[tuple[str, int, bool]]) -> None:
    assert shape(asks(feeds(*waiting), room, reserved, now=0)) == expected


def test_one_request_of_a_feed_at_a_time_and_none_while_it_rests_or_is_missing() -> None:
    one, two, three = feeds(9, 9, 9)
    one.left, two.until, three.missing = 3, 10.0, True
    assert asks([one, two, three], 20, 0, now=5) == []
    three.missing = False
    assert shape(asks([one, two, three], 5, 0, now=5)) == [("rd-std", 2, False)], "what was asked for has its room"


def test_there_never_comes_more_than_there_is_room_for_but_one_for_each_idle_feed() -> None:
    chance = random.Random(7)
    for _ in range(300):
        stream = [chance.randrange(0, 30) for _ in range(3)]
        found = feeds(0, 0, 0)
        room, taken = chance.randrange(1, 12), 0
        for _ in range(200):
            for ask in asks(found, room - taken, 0, now=0):
                ask.feed.left, ask.feed.idle = ask.batch, ask.idle
            place = chance.randrange(3)
            if found[place].left and stream[place]:
                stream[place] -= 1
                taken += 1
                found[place].came(stream[place])
            elif found[place].left and not found[place].idle:
                found[place].over()
            assert taken <= room + 2


def test_where_a_message_stands() -> None:
    short = origin("$JS.ACK.RD_JOBS.rd-std.2.17.19.1795752230092236431.6")
    long = origin("$JS.ACK.hub.ACC.RD_JOBS.rd-std.2.17.19.1795752230092236431.6.rnd")
    assert short == long
    assert short is not None
    assert (short.key, short.deliveries, short.waiting, short.id) == (("RD_JOBS", 17), 2, 6, "js-1795752230092236431-17")
    for nonsense in ("", "_INBOX.x", "$JS.ACK.RD_JOBS.rd-std.2", "$JS.ACK.RD_JOBS.rd-std.a.b.c.d.e"):
        assert origin(nonsense) is None


def test_what_a_subject_says() -> None:
    found = address("rd.v1.job.acme.hi.py.one", "rd.v1")
    assert (found.tenant, found.cls, found.lang, found.job) == ("acme", "hi", "py", "one")
    assert address("rd.v1.due.acme.hi.py", "rd.v1").job == ""
    for wrong in (
        "rd.v1.job.acme.hi",
        "rd.v1.job.a.b.c.d.e",
        "other.job.a.b.c",
        "rd.v1.job.ac/me.hi.py",
        "rd.v1.job.acme.hi.py." + "x" * 65,
    ):
        with pytest.raises(Refusal):
            address(wrong, "rd.v1")


def test_times_and_schedules() -> None:
    assert queue_ttl_s({}, 0) is None
    assert queue_ttl_s({"rd-deadline": "1970-01-01T00:01:00Z"}, 10_000_000_000) == 50
    assert queue_ttl_s({"rd-deadline": "1970-01-01T01:00:00+01:00"}, 10_000_000_000) == -10
    for wrong in ("soon", "2030-01-01", "2030-01-01T00:00:00"):
        with pytest.raises(Refusal):
            queue_ttl_s({"rd-deadline": wrong}, 0)
    assert [result_ttl({"rd-result-ttl": each} if each else {}) for each in ("", "60", "15m")] == ["", "60", "15m"]
    for wrong in ("0", "-5", "1d", "1.5h", "never", "9" * 9):
        with pytest.raises(Refusal):
            result_ttl({"rd-result-ttl": wrong})
    assert scheduled_by({"nats-scheduler": "rd.v1.sched.acme.one"}, "rd.v1") == "acme"
    assert scheduled_by({}, "rd.v1") is None


def test_an_older_server_has_no_delayed_jobs() -> None:
    older = msgspec.structs.replace(TOPOLOGY, version=(2, 11))
    assert "RD_LATER" not in {stream["name"] for stream in older.streams()}
    assert [each.name for each in older.consumers()] == ["rd-hi", "rd-std", "rd-low"]


def test_only_what_was_asked_for_is_compared() -> None:
    wanted = {"subjects": ["a", "b"], "max_age": 60_000_000_000, "allow_direct": True, "max_bytes": 5}
    assert differences(wanted, {**wanted, "subjects": ["b", "a"], "metadata": {"x": "y"}}) == []
    assert differences(wanted, {**wanted, "max_age": 1_000_000_000, "allow_direct": False}) == [
        "max_age is 1 s, not 60 s",
        "allow_direct is False, not True",
    ]
