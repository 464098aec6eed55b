"""The plain parts of the NATS ingress: subjects, room, request, cutting."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runnerd_plugins.ingress.nats import Nats
from runnerd_plugins.ingress.nats.refusal import Refusal
from runnerd_plugins.ingress.nats.reply import heading, size_of
from runnerd_plugins.ingress.nats.request import answer_type, folded, read_request
from runnerd_plugins.ingress.nats.room import Room
from runnerd_plugins.ingress.nats.subjects import Subjects

from runnerd import (
    JSON,
    MSGPACK,
    File,
    Output,
    Result,
    Skipped,
    Stage,
    cut_output,
    cut_result,
    decode_event,
    decode_result,
    encode,
    without_output,
)
from runnerd.job import text_of

SUBJECTS = Subjects(prefix="rd.v1", tenants=("*",), reply_prefixes=("_INBOX.", "app.reply."))


@pytest.mark.parametrize("reply", ["_INBOX.abc", "_INBOX.acme.x.y", "app.reply.1", "_INBOX." + "x" * 505, "_INBOX.é"])
def test_reply_subjects_that_are_taken(reply: str) -> None:
    assert SUBJECTS.reply_problem(reply) == ""


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "$JS.API.STREAM.DELETE.RD_JOBS",
        "$SYS.REQ.SERVER.PING",
        "$SRV.PING",
        "rd.v1",
        "rd.v1.run.acme.py",
        "rd.v1.job.acme.std.py",
        "_INBOX",
        "_INBOX.",
        "_INBOX..x",
        "_INBOX.x.",
        "_INBOX.*",
        "_INBOX.x.>",
        "_INBOX.a>b",
        "_INBOX.a b",
        "_INBOX.a\x0bb",
        "_INBOX.a\r\nPUB x 0",
        "_inbox.x",
        "orders.new",
        "_INBOX." + "x" * 506,
        "_INBOX." + "é" * 253,
    ],
)
def test_reply_subjects_that_are_refused(reply: str) -> None:
    assert SUBJECTS.reply_problem(reply)


def test_room_is_what_starts_and_a_little_more() -> None:
    room = Room(prefetch=2)
    assert [room.take(free) for free in (2, 2, 2, 2, 2)] == [True, True, True, True, False]  # the daemon has seen none yet
    assert not room.wants_more(2, member=True)
    for _ in range(4):
        room.started()
    assert not room.take(0)
    room.done()
    assert room.wants_more(0, member=False)  # half of what is fetched ahead was used
    assert room.take(0)
    assert not room.take(0)
    room.started()
    for _ in range(4):
        room.done()
    assert room.in_hand == 0
    assert room.left(2) == 4
    room.closed = True
    assert not room.take(2)


@given(st.lists(st.sampled_from(["take", "start", "done"]), max_size=200), st.integers(0, 5), st.integers(0, 5))
def test_room_never_exceeds_slots_and_prefetch(steps: list[str], slots: int, prefetch: int) -> None:
    room = Room(prefetch)
    starting = running = 0
    for step in steps:
        free = max(0, slots - running)
        if step == "take":
            starting += room.take(free)
        elif step == "start" and starting:
            starting, running = starting - 1, running + 1
            room.started()
        elif step == "done" and running:
            running -= 1
            room.done()
        assert room.in_hand == starting + running <= slots + prefetch
    while starting or running:
        if starting:
            starting, running = starting - 1, running + 1
            room.started()
        running -= 1
        room.done()
    assert room.left(slots) >= slots


@pytest.mark.parametrize(
    ("headers", "media"),
    [
        ({}, JSON),
        ({"Content-Type": MSGPACK}, MSGPACK),
        ({"Content-Type": MSGPACK, "Accept": "application/json; q=1"}, JSON),
        ({"Accept": "text/html, application/x-msgpack"}, MSGPACK),
        ({"Accept": "*/*", "Content-Type": "application/msgpack; v=1"}, MSGPACK),
        ({"Content-Type": "text/plain"}, JSON),
    ],
)
def test_answer_type(headers: dict[str, str], media: str) -> None:
    assert answer_type(folded(headers)) == media


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({"Rd-Timeout-Ms": "soon"}, "Rd-Timeout-Ms: 'soon' must be"),
        ({"Rd-Timeout-Ms": "0"}, "Rd-Timeout-Ms"),
        ({"Rd-Timeout-Ms": "nan"}, "Rd-Timeout-Ms"),
        ({"RD-QUEUE-TTL-MS": "-1"}, "Rd-Queue-Ttl-Ms"),
        ({"Rd-Job-Id": "a.b"}, "Rd-Job-Id"),
        ({"Nats-Msg-Id": "*"}, "Rd-Job-Id"),
        ({"Rd-Job-Id": "x" * 65}, "Rd-Job-Id"),
        ({"Rd-Stream": "yes"}, "Rd-Stream"),
        ({"Accept": "text/html"}, "Accept"),
        ({"Rd-Correlation-Id": "x" * 513}, "Rd-Correlation-Id"),
    ],
)
def test_headers_that_are_refused(headers: dict[str, str], says: str) -> None:
    with pytest.raises(Refusal, match=says) as refused:
        read_request("acme", "py", b"{}", folded(headers), 100)
    assert refused.value.code == 400


def test_headings_are_one_line_and_sizes_are_those_on_the_wire() -> None:
    assert heading("a\r\nPUB x 0\0" + "é" * 300) == "a PUB x 0 " + "é" * 190
    wire = b"NATS/1.0\r\nA: b\r\nRd-X: \xc3\xa9\r\n\r\n"
    assert size_of({"A": "b", "Rd-X": "é"}) >= len(wire)


def result(**fields: object) -> Result:
    return msgspec.structs.replace(Result(status="ok", id="j", exit_code=0), **fields)


def noise(size: int, seed: int) -> bytes:
    return bytes((i * 31 + seed * 7) % 256 for i in range(size))


def test_without_output_what_was_left_out_is_told() -> None:
    result = Result(status="ok", stdout="a", stderr_bytes=b"\xff", stderr="?", compile=Stage(stdout="c", stderr_bytes=b"\xff", ran_ms=1.0))
    bare = without_output(result)
    assert (bare.stdout, bare.stderr, bare.stderr_bytes, bare.stdout_truncated, bare.stderr_truncated) == ("", "", None, True, True)
    assert bare.compile is not None
    assert (bare.compile.stdout, bare.compile.stderr, bare.compile.stderr_bytes, bare.compile.ran_ms) == ("", "", None, 1.0)
    told = [without_output(Result(status="ok", compile=stage)) for stage in (None, Stage(), Stage(stderr="w"))]
    assert [(each.stdout_truncated, each.stderr_truncated) for each in told] == [(False, False), (False, False), (False, True)]


@pytest.mark.parametrize("media", [JSON, MSGPACK])
@pytest.mark.parametrize(
    "large",
    [
        result(stdout="x" * 100_000),
        result(stdout="\0" * 50_000, stderr="é" * 50_000),
        result(stdout=text_of(noise(60_000, 1))[0], stdout_bytes=noise(60_000, 1)),
        result(compile=Stage(stderr="e" * 200_000)),
        result(stdout="x", files=tuple(File(name=f"{i}", data=noise(9_000, i)) for i in range(20))),
        result(skipped=tuple(Skipped(name="n" * 300, reason="r" * 50) for _ in range(5_000))),
        result(stdout="x" * 100_000, reason="r" * 100_000, files=tuple(File(name="f" * 255, text="") for _ in range(3_000))),
    ],
    ids=["text", "escapes", "bytes", "compile", "files", "skipped", "all"],
)
def test_cut_results_fit_and_say_what_is_missing(large: Result, media: str) -> None:
    body, cut = cut_result(large, lambda each: encode(each, media), 32_768)
    assert cut
    assert len(body) <= 32_768
    small = decode_result(body, media)
    assert (small.status, small.exit_code, small.id) == ("ok", 0, "j")
    for stream in ("stdout", "stderr"):
        was, now = getattr(large, stream), getattr(small, stream)
        assert getattr(small, f"{stream}_truncated") == (was != now)
        assert was.startswith(now) or getattr(small, f"{stream}_bytes") is not None
    if large.files and not large.reason:
        missing = {file.name for file in large.files} - {file.name for file in small.files}
        assert missing == {each.name for each in small.skipped}
        assert len(small.files) >= 2


def test_small_results_are_not_touched() -> None:
    small = result(stdout="x" * 100)
    assert cut_result(small, encode, 1000) == (encode(small), False)


def test_output_that_escapes_badly_is_sent_as_data() -> None:
    piece = Output(id="j", stream="stdout", seq=7, text="\0" * 10_000)
    body = cut_output(piece, encode, 20_000)
    assert body is not None
    sent = decode_event(body)
    assert isinstance(sent, Output)
    assert (sent.seq, sent.content) == (7, piece.content)
    assert cut_output(piece, encode, 5_000) is None


@pytest.mark.parametrize(
    "settings",
    [
        {"prefix": "rd.>"},
        {"prefix": ""},
        {"tenants": []},
        {"tenants": ["a.b"]},
        {"reply_prefixes": ["$JS."]},
        {"reply_prefixes": [""]},
        {"reply_prefixes": ["*."]},
        {"user": "u"},
        {"tls_key": "k"},
        {"subject": "x"},
        {"prefetch": -1},
    ],
)
def test_settings_that_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"kind": "nats", **settings}, Nats)


def test_no_secret_is_shown() -> None:
    shown = repr(Nats(url="nats://me:hunter2@host:4222", user="me", password="hunter2"))
    assert "hunter2" not in shown
    assert "nats://host:4222" in shown
