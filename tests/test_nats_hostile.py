"""What any sender can do to the bus side of a daemon. Each is answered or counted, and nothing else is disturbed."""

import asyncio
import json
from pathlib import Path

import pytest
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.js.api import StreamConfig

from fake_services import FakeServices
from nats_fixture import nats_client, nats_proxy, nats_server, raw_lines, wait_until
from nats_ingress import Bench, bench, opened, packed, result_of
from runnerd import MSGPACK, Job, encode

RUN = "rd.v1.run.acme.py"


async def undisturbed(b: Bench) -> None:
    """The daemon works, on the clients that it began with."""
    assert result_of(await b.run("echo on")).stdout == "on"
    stats = await b.stats()
    assert stats["in_hand"] == 0
    assert "clients_rebuilt" not in stats["counts"]


@pytest.mark.parametrize(
    ("subject", "body", "headers", "code", "says"),
    [
        (RUN, b"not json", {}, "400", "not a job in application/json"),
        (RUN, b"", {}, "400", "not a job"),
        (RUN, b"[" * 100_000, {}, "400", "not a job"),
        (RUN, b'{"code": 7}', {}, "400", "code"),
        (RUN, b'{"code": "x", "env": {"A": 1}}', {}, "400", "env"),
        (RUN, b"\xff\xfe", {}, "400", "not a job"),
        (RUN, b'{"code": "echo", "tenant": "other"}', {}, "400", "tenant"),
        (RUN, packed(Job(code="echo")), {}, "400", "not a job in application/json"),
        (RUN, b"\xc1", {"Content-Type": MSGPACK}, "400", "not a job in application/msgpack"),
        (RUN, b"{}", {"Content-Type": "text/html"}, "400", "text/html"),
        (RUN, b"{}", {"Rd-Stream-To": "$JS.API.STREAM.DELETE.X"}, "400", "Rd-Stream-To"),
        (RUN, b"{}", {"Rd-Job-Id": "a.b>*"}, "400", "Rd-Job-Id"),
        (RUN, b"x" * 2000, {}, "413", "at most 1024"),
        ("rd.v1.run.acme.cobol", b"{}", {}, "404", "use one of js, py"),
        ("rd.v1.run.acme.PY", b"{}", {}, "404", "use one of js, py"),
        ("rd.v1.run.*.py", b"{}", {}, "400", "tenant"),
        ("rd.v1.run.é.py", b"{}", {}, "400", "tenant"),
        (f"rd.v1.run.{'t' * 65}.py", b"{}", {}, "400", "tenant"),
        ("rd.v1.run.acme.>", b"{}", {}, "400", "language"),
        (f"rd.v1.run.acme.{'l' * 3000}", b"{}", {}, "400", "language"),
    ],
)
async def test_requests_that_can_never_run(
    tmp_path: Path, subject: str, body: bytes, headers: dict[str, str], code: str, says: str
) -> None:
    async with bench(tmp_path, body_bytes=200_000 if len(body) > 50_000 else 1024) as b:
        msg = await b.ask(subject, body, headers)
        assert msg.headers["Rd-Status"] == "rejected"
        assert msg.headers["Nats-Service-Error-Code"] == code
        result = result_of(msg)
        assert result.status == "rejected"
        assert says in result.reason
        await undisturbed(b)


async def test_every_tenant_and_id_of_64_characters_is_good(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        for token in ("x" * 64, "-_-", "0"):
            msg = await b.run("echo hi", {"Rd-Job-Id": token}, tenant=token)
            assert (result_of(msg).tenant, result_of(msg).id) == (token, token)


@pytest.mark.parametrize(
    "reply",
    [
        "$JS.API.STREAM.DELETE.PRECIOUS",
        "rd.v1.run.acme.py",
        "rd.v1.job.acme.std.py",
        "orders.new",
        "_INBOX.*",
        "_INBOX.>",
        "_INBOX..x",
        "_INBOX." + "x" * 600,
    ],
)
async def test_reply_subjects_that_name_something_else(tmp_path: Path, reply: str) -> None:
    server = {"jetstream": {"store_dir": str(tmp_path / "js")}}
    async with bench(tmp_path, server=server) as b:
        js = b.client.jetstream()
        await js.add_stream(StreamConfig(name="PRECIOUS", subjects=["precious.>"]))
        heard: list[Msg] = []

        async def hear(msg: Msg) -> None:
            heard.append(msg)

        subscription = await b.client.subscribe("orders.>", cb=hear)
        for subject in (RUN, "rd.v1.ctl.acme.j.status", "rd.v1.info.langs", "$SRV.PING"):
            await raw_lines(b.server.url, f"PUB {subject} {reply} 15\r\n".encode() + b'{"code":"echo"}' + b"\r\n")
        assert await b.counted("refused_reply", 4) == 4
        assert b.services.deliveries == []
        await js.stream_info("PRECIOUS")
        assert heard == []
        await subscription.unsubscribe()
        await undisturbed(b)


async def test_no_reply_subject(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        for subject in (RUN, "rd.v1.ctl.acme.j.cancel", "rd.v1.info.schema"):
            await b.client.publish(subject, encode(Job(code="echo")))
        assert await b.counted("refused_no_reply", 3) == 3
        assert b.services.deliveries == []
        await undisturbed(b)


MALFORMED = {
    "tenant that is no UTF-8": b"PUB rd.v1.run.\xff.py _INBOX.x 2\r\nhi\r\n",
    "reply that is no UTF-8": b"PUB rd.v1.run.a.py _INBOX.\xff 2\r\nhi\r\n",
    "question that is no UTF-8": b"PUB rd.v1.ctl.\xff.\xfe.status _INBOX.x 2\r\nhi\r\n",
    "headers without a line": b"HPUB rd.v1.run.a.py _INBOX.x 8 10\r\nNATS/1.0hi\r\n",
    "headers of one byte": b"HPUB rd.v1.run.a.py _INBOX.x 1 3\r\nNhi\r\n",
    "headers of nothing": b"HPUB rd.v1.run.a.py _INBOX.x 12 14\r\nNATS/1.0\r\n\r\nhi\r\n",
    "headers that are noise": b"HPUB rd.v1.run.a.py _INBOX.x 26 28\r\nNATS/1.0 \xff\xfe: \xff\r\n:::\r\n\r\nhi\r\n",
    "status that is no UTF-8": b"HPUB rd.v1.run.a.py _INBOX.x 18 20\r\nNATS/1.0 \xff\xff\xff \xff\r\n\r\nhi\r\n",
    "vertical tab in the tenant": b"PUB rd.v1.run.a\x0bb.py _INBOX.x 2\r\nhi\r\n",
    "form feed in the reply": b"PUB rd.v1.run.a.py _INBOX.\x0cx 2\r\nhi\r\n",
    "control characters": b"PUB rd.v1.run.\x01.py _INBOX.\x7f 2\r\nhi\r\n",
}


@pytest.mark.parametrize("lines", MALFORMED.values(), ids=MALFORMED)
async def test_messages_that_break_a_naive_client(tmp_path: Path, lines: bytes) -> None:
    async with bench(tmp_path) as b:
        before = {each["cid"] for each in await b.server.connections()}
        await raw_lines(b.server.url, lines * 3)
        await undisturbed(b)
        after = {each["cid"] for each in await b.server.connections()}
        assert after == before, "the daemon lost a connection"


async def test_bodies_at_the_limit_and_beyond(tmp_path: Path) -> None:
    limit = 65_536
    async with bench(tmp_path, server={"max_payload": limit}) as b:
        headers = b"NATS/1.0\r\nRd-Job-Id: exact\r\n\r\n"
        filled = encode(Job(code="echo hi", stdin="x" * (limit - len(headers) - len(encode(Job(code="echo hi", stdin="x"))) + 1)))
        assert len(headers) + len(filled) == limit
        inbox = b.client.new_inbox()
        answers = await b.client.subscribe(inbox)
        lines = f"HPUB {RUN} {inbox} {len(headers)} {limit}\r\n".encode() + headers + filled + b"\r\n"
        await raw_lines(b.server.url, lines)
        assert result_of(await answers.next_msg(timeout=30)).id == "exact"
        # One header more than the limit: the server closes the sender, as it must, and nobody else.
        async with nats_client(b.server.url, allow_reconnect=False) as sender:
            await sender.publish(RUN, b"x" * limit, reply=inbox, headers={"A": "b"})
            await wait_until(lambda: sender.is_closed, "the sender is closed")
        await answers.unsubscribe()
        await undisturbed(b)


@pytest.mark.parametrize("media", ["application/json", MSGPACK])
@pytest.mark.parametrize("code", ["big 60000", "big 64500", "big 65536", "big 500000", "nul 20000", "files 10 20000"])
async def test_results_larger_than_the_bus(tmp_path: Path, code: str, media: str) -> None:
    async with bench(tmp_path, server={"max_payload": 65_536}) as b:
        msg = await b.run(code, {"Accept": media, "Rd-Correlation-Id": "c" * 500})
        result = result_of(msg)
        assert result.status == "ok"
        assert result.stdout_truncated or result.skipped
        assert "larger than a message" in result.skipped[0].reason if result.skipped else result.stdout
        assert await b.counted("results_cut") == 1
        await undisturbed(b)


async def test_ten_thousand_requests_at_once(tmp_path: Path) -> None:
    async with bench(tmp_path, slots=3, prefetch=2) as b, nats_client(b.server.url, pending_size=64 << 20) as flood:
        inbox = flood.new_inbox()
        body = encode(Job(code="wait"))
        answers: dict[str, Msg] = {}

        async def receive(msg: Msg) -> None:
            assert msg.subject not in answers, "answered twice"
            answers[msg.subject] = msg

        await flood.subscribe(f"{inbox}.*", cb=receive)
        await flood.flush()
        for number in range(10_000):
            await flood.publish(RUN, body, reply=f"{inbox}.{number}")
        await wait_until(lambda: len(answers) >= 10_000 - 5, "an answer to each but those in hand", 120)
        in_hand = 10_000 - len(answers)
        while len(answers) < 10_000:
            b.services.release()
            await asyncio.sleep(0.01)
        headers = [msg.headers or {} for msg in answers.values()]
        kinds = [each.get("Rd-Status") or each.get("Nats-Service-Error-Code") or each["Status"] for each in headers]
        assert set(kinds) <= {"ok", "503"}
        assert kinds.count("ok") == in_hand == 5
        refused = [msg for msg in answers.values() if "Nats-Service-Error" in msg.headers]
        assert all(msg.headers["Rd-Retry-After-Ms"] == "1000" for msg in refused)
        assert await b.counted("refused_saturated") == len(refused)
        assert b.services.most_in_hand <= 5
        await b.all_done()
        async with asyncio.timeout(30):
            while not (await b.stats())["member"]:
                await asyncio.sleep(0.01)
        await undisturbed(b)


async def test_a_requester_that_is_gone_can_ask_later(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        async with nats_client(b.server.url) as gone:
            await gone.publish(RUN, encode(Job(code="wait")), reply=gone.new_inbox(), headers={"Rd-Job-Id": "left"})
            await wait_until(lambda: b.services.running, "the job runs")
        b.services.release()
        await b.all_done()
        assert result_of(await b.ask("rd.v1.ctl.acme.left.status")).status == "ok"
        await undisturbed(b)


async def test_a_reply_that_the_server_forbids_harms_nothing(tmp_path: Path) -> None:
    users = [
        {"user": "daemon", "password": "d", "permissions": {"publish": {"allow": ["_INBOX.>"], "deny": ["_INBOX.forbidden.>"]}}},
        {"user": "caller", "password": "c"},
    ]
    services = FakeServices()
    async with (
        nats_server(tmp_path / "server", authorization={"users": users}) as server,
        nats_client(server.url, user="caller", password="c") as client,
        opened(services, server.url, user="daemon", password="d"),
        nats_client(server.url, user="caller", password="c") as client,
    ):
        b = Bench(server, client, services)
        await client.publish(RUN, encode(Job(code="echo hi")), reply="_INBOX.forbidden.x", headers={"Rd-Job-Id": "j"})
        await b.counted("bus_errors")
        assert result_of(await b.ask("rd.v1.ctl.acme.j.status")).stdout == "hi"
        await undisturbed(b)
        await client.close()


async def test_a_consumer_that_never_reads_delays_nobody(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        reader, writer = await asyncio.open_connection("127.0.0.1", b.server.port, limit=1024)
        writer.write(b'CONNECT {"verbose":false}\r\nSUB _INBOX.deaf 1\r\nPING\r\n')
        await wait_until(lambda: b"PONG" in reader._buffer, "the deaf one has subscribed")
        await b.client.publish(
            RUN, encode(Job(code="stream 3000 30000")), reply="_INBOX.deaf", headers={"Rd-Stream": "reply", "Rd-Job-Id": "loud"}
        )
        assert result_of(await b.run("echo meanwhile")).stdout == "meanwhile"
        await b.all_done()
        assert result_of(await b.ask("rd.v1.ctl.acme.loud.status")).stdout == "streamed"
        writer.close()
        await undisturbed(b)


async def test_output_that_the_bus_does_not_take_is_dropped_and_the_result_is_not(tmp_path: Path) -> None:
    services = FakeServices()
    async with (
        nats_server(tmp_path / "server") as server,
        nats_proxy(server.port) as (proxy, url),
        nats_client(server.url) as client,
    ):
        proxy.paused = lambda data: b"/streams" in data
        inbox = client.new_inbox()
        got: list[Msg] = []

        async def receive(msg: Msg) -> None:
            got.append(msg)

        await client.subscribe(f"{inbox}.>", cb=receive)
        with pytest.raises(NoRespondersError):
            await client.request("nobody.there")
        async with opened(services, url, stream_pending_bytes=64 << 10):
            b = Bench(server, client, services)
            proxy.pause()
            await client.publish(RUN, encode(Job(code="stream 2000 20000")), reply=f"{inbox}.r", headers={"Rd-Stream": "reply"})
            await b.counted("events_dropped", 100)
            assert result_of(await b.run("echo meanwhile")).stdout == "meanwhile"
            await b.all_done()
            proxy.resume()
            await wait_until(lambda: got and not got[-1].data, "the end of the stream")
            result = got[-2]
            assert result_of(result).stdout == "streamed"
            seen = [int(msg.headers["Rd-Seq"]) for msg in got[:-1]]
            assert seen == sorted(seen)
            assert seen[-1] == 2002
            assert int(result.headers["Rd-Dropped"]) == 2002 - len(seen) == (await b.stats())["counts"]["events_dropped"]


async def test_log_lines_are_bounded_and_tell_no_body(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with bench(tmp_path) as b:
        for _ in range(1000):
            await b.client.publish(RUN, b"a-secret-body", reply="orders.new", headers={"Rd-Job-Id": "a-secret-header"})
        await b.counted("refused_reply", 1000)
    lines = [line for line in capsys.readouterr().out.splitlines() if "refused_reply" in line]
    assert 10 <= len(lines) <= 11
    assert not [line for line in lines if "secret" in line]


async def test_error_texts_of_the_daemon_stay_inside(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        msg = await b.run("crash")
        assert json.loads(msg.data) == {"error": "runnerd failed; its log says how", "code": 500}
        await undisturbed(b)
