"""Durable jobs: in by a stream, and exactly one result out."""

import asyncio
import gzip
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from nats.errors import NoRespondersError
from runnerd_plugins.ingress.nats import Nats

from fake_executor import wait_until
from fake_services import FakeServices
from jetstream import Durable, Executor, durable, inbox
from nats_fixture import nats_client
from runnerd import Job, decode_event, decode_result, encode


async def test_a_job_in_the_stream_runs_and_its_result_is_in_the_other_once(tmp_path: Path) -> None:
    async with durable(tmp_path) as bus, bus.daemon(executor := Executor()), inbox(bus.client) as (to, answers):
        accepted = await bus.submit("hi", "one", rd_reply_to=to, rd_correlation_id="c 7", traceparent="00-a-b-01")
        assert accepted["stream"] == "RD_JOBS"
        result = await bus.result("one")
        assert (result.status, result.stdout, result.starts) == ("ok", "hi\n", 1)
        await bus.drained()
        await wait_until(lambda: len(answers) == 1, "the reply came")
        assert decode_result(answers[0].data) == result
        headers = answers[0].headers or {}
        assert (headers["Rd-Status"], headers["Rd-Correlation-Id"], headers["traceparent"]) == ("ok", "c 7", "00-a-b-01")
        await bus.submit("hi", "one", nats_msg_id="another message", rd_reply_to=to)
        await bus.drained()
        await wait_until(lambda: len(answers) == 2, "the repetition is answered")
        assert decode_result(answers[1].data) == result
        assert await bus.messages("RD_RES") == 1
        assert executor.starts == {"one": 1}


@pytest.mark.parametrize("named", ["header", "message id", "subject", "body", "nowhere"])
async def test_every_way_to_name_a_job(tmp_path: Path, named: str) -> None:
    async with durable(tmp_path) as bus, bus.daemon():
        body = encode(Job(code="hi", id="it" if named == "body" else ""))
        headers = {"header": {"Rd-Job-Id": "it"}, "message id": {"Nats-Msg-Id": "it"}}.get(named, {})
        sent = await bus.send("rd.v1.job.acme.std.py.it" if named == "subject" else "rd.v1.job.acme.std.py", body, headers)
        await bus.drained()
        found = await bus.stored("rd.v1.res.acme.*")
        assert found is not None
        name = (found.headers or {})["Nats-Subject"].removeprefix("rd.v1.res.acme.")
        assert name.endswith(f"-{sent['seq']}") if named == "nowhere" else name == "it"
        assert decode_result(found.data).id == name


async def test_fifty_of_one_id_run_once_and_all_are_answered(tmp_path: Path) -> None:
    executor = Executor()
    async with durable(tmp_path) as bus, inbox(bus.client) as (to, answers), bus.daemon(executor), bus.daemon(executor):
        for number in range(50):
            await bus.submit("sleep 0.2", "one", nats_msg_id=f"message {number}", rd_reply_to=to)
        await bus.drained()
        await wait_until(lambda: len(answers) == 50, "each is answered")
        assert {answer.data for answer in answers} == {answers[0].data}
        assert executor.starts == {"one": 1}
        assert await bus.messages("RD_RES") == 1


REJECTED: dict[str, tuple[str, bytes, dict[str, str], str]] = {
    "no job": ("rd.v1.job.acme.std.py.bad", b"{", {}, "not a job"),
    "language": ("rd.v1.job.acme.std.cobol.bad", b'{"code":"hi"}', {}, "no language 'cobol'"),
    "two ids": ("rd.v1.job.acme.std.py.bad", b'{"code":"hi"}', {"Rd-Job-Id": "other"}, "give one of them"),
    "body's id": ("rd.v1.job.acme.std.py.bad", b'{"code":"hi","id":"other"}', {}, "give one of them"),
    "deadline": ("rd.v1.job.acme.std.py.bad", b'{"code":"hi"}', {"Rd-Deadline": "2030-01-01T00:00"}, "Rd-Deadline"),
    "result ttl": ("rd.v1.job.acme.std.py.bad", b'{"code":"hi"}', {"Rd-Result-Ttl": "-1"}, "Rd-Result-Ttl"),
    "output": ("rd.v1.job.acme.std.py.bad", b'{"code":"hi"}', {"Rd-Output": "loud"}, "use inline or events or durable or none"),
    "stream": ("rd.v1.job.acme.std.py.bad", b'{"code":"hi"}', {"Rd-Stream": "reply"}, "Rd-Stream"),
    "stream to": ("rd.v1.job.acme.std.py.bad", b'{"code":"hi"}', {"Rd-Stream-To": "$JS.API.STREAM.DELETE.RD_JOBS"}, "Rd-Stream-To"),
    "kept at a subject": (
        "rd.v1.job.acme.std.py.bad",
        b'{"code":"hi"}',
        {"Rd-Output": "durable", "Rd-Stream-To": "_INBOX.a"},
        "Rd-Stream-To",
    ),
    "none at a subject": ("rd.v1.job.acme.std.py.bad", b'{"code":"hi"}', {"Rd-Output": "none", "Rd-Stream-To": "_INBOX.a"}, "Rd-Stream-To"),
    "retry on": ("rd.v1.job.acme.std.py.bad", b'{"code":"hi"}', {"Rd-Retry-On": "oom,bored"}, "retry_on: 'bored'"),
    "encoding": ("rd.v1.job.acme.std.py.bad", b'{"code":"hi"}', {"Content-Encoding": "gzip"}, "body: not gzip"),
}


@pytest.mark.parametrize("case", REJECTED)
async def test_what_can_never_run_is_rejected_once(tmp_path: Path, case: str) -> None:
    subject, body, headers, reason = REJECTED[case]
    async with durable(tmp_path) as bus, bus.daemon(executor := Executor()), inbox(bus.client) as (to, answers):
        await bus.send(subject, body, {**headers, "Rd-Reply-To": to})
        await bus.drained()
        result = await bus.result("bad")
        assert result.status == "rejected"
        assert reason in result.reason
        await wait_until(lambda: len(answers) == 1, "it is answered")
        assert decode_result(answers[0].data) == result
        assert await bus.messages("RD_DEAD") == 0
        await bus.send("rd.v1.job.acme.std.py.bad", b'{"code":"hi"}')
        await bus.drained()
        assert (await bus.result("bad")).status == "ok", "mended, it runs under the same name"
        assert (executor.starts, await bus.messages("RD_RES")) == ({"bad": 1}, 1)


async def test_another_job_of_the_same_name_leaves_the_first_ones_result_alone(tmp_path: Path) -> None:
    executor = Executor()
    async with durable(tmp_path) as bus, bus.daemon(executor), inbox(bus.client) as (to, answers):
        await bus.submit("wait", "one")
        await wait_until(lambda: executor.starts["one"] == 1, "the first runs")
        await bus.submit("another", "one", nats_msg_id="another", rd_reply_to=to)
        await wait_until(lambda: len(answers) == 1, "the second is answered")
        assert decode_result(answers[0].data).status == "rejected"
        assert await bus.stored("rd.v1.res.acme.one") is None
        executor.go.set()
        assert (await bus.result("one")).status == "ok"


async def test_compressed_bodies(tmp_path: Path) -> None:
    async with durable(tmp_path) as bus, bus.daemon():
        await bus.send("rd.v1.job.acme.std.py.small", gzip.compress(encode(Job(code="hi"))), {"Content-Encoding": "gzip"})
        assert (await bus.result("small")).status == "ok"


@pytest.mark.parametrize("headers", [{"Rd-Queue-Ttl-Ms": "1"}, {"Rd-Deadline": "2001-01-01T00:00:00Z"}])
async def test_a_job_whose_time_is_over_expires_unstarted(tmp_path: Path, headers: dict[str, str]) -> None:
    async with durable(tmp_path) as bus:
        async with bus.daemon():
            pass  # makes the streams
        await bus.send("rd.v1.job.acme.std.py.late", encode(Job(code="hi")), headers)
        await asyncio.sleep(0.01)
        async with bus.daemon(executor := Executor()):
            result = await bus.result("late")
            await bus.drained()
        assert (result.status, result.starts, executor.starts.total()) == ("expired", 0, 0)


async def test_a_job_without_a_sandbox_waits_in_the_stream_and_does_not_expire(tmp_path: Path) -> None:
    executor = Executor(fails=lambda: not executor.go.is_set())
    async with durable(tmp_path) as bus, bus.daemon(executor, flags=("scheduler.queue_ttl_s=0.1",)):
        await bus.submit("hi", "one")
        async with asyncio.timeout(30):
            while (await bus.deliveries()) < 3:
                await asyncio.sleep(0.02)
        assert await bus.stored("rd.v1.res.acme.one") is None
        executor.go.set()
        result = await bus.result("one")
        assert (result.status, result.starts) == ("ok", 1)


async def test_a_dead_job_is_a_letter_with_its_reason(tmp_path: Path) -> None:
    async with durable(tmp_path) as bus, bus.daemon(executor := Executor()), inbox(bus.client) as (to, answers):
        body = encode(Job(code="lose"))
        sent = {"Rd-Reply-To": to, "Nats-Msg-Id": "doomed", "rd-dead-reason": "its own", "Nats-Other": "all"}
        await bus.send("rd.v1.job.acme.hi.py.doomed", body, sent)
        await wait_until(lambda: len(answers) == 1, "it is answered")
        assert (await bus.result("doomed")).status == "dead"
        await bus.drained()
        letter = await bus.stored("rd.v1.dead.acme.hi.py", "RD_DEAD")
        assert letter is not None
        headers = letter.headers or {}
        assert letter.data == body
        assert "3 starts" in headers["Rd-Dead-Reason"]
        assert not {"rd-dead-reason", "Nats-Other"} & headers.keys()
        assert (headers["Rd-Job-Id"], headers["Rd-Attempts"], headers["Rd-Reply-To"]) == ("doomed", "3", to)
        assert headers["Rd-Subject"] == "rd.v1.job.acme.hi.py.doomed"
        await bus.submit("lose", "doomed", cls="hi", nats_msg_id="again")
        await bus.drained()
        assert (await bus.messages("RD_DEAD"), executor.starts["doomed"]) == (1, 3)


async def test_cancel_in_the_stream_in_hand_and_at_another_daemon(tmp_path: Path) -> None:
    executor = Executor()
    async with durable(tmp_path) as bus, bus.daemon(executor, slots=1), bus.daemon(executor, slots=1):
        for name in ("a", "b"):
            await bus.submit("wait", name)
        await wait_until(lambda: executor.running.total() == 2, "both daemons are busy")
        await bus.send("rd.v1.job.acme.std.py.queued", encode(Job(code="hi")))
        assert (await bus.control("queued", "status"))["state"] == "queued"
        assert (await bus.control("queued", "cancel"))["status"] == "cancelled"
        assert (await bus.control("queued", "status"))["status"] == "cancelled"
        for name in ("a", "b"):
            assert (await bus.control(name, "status"))["state"] == "running"
        for name in ("a", "b"):
            assert (await bus.control(name, "cancel"))["status"] == "cancelled"
        await wait_until(lambda: not executor.running.total(), "both sandboxes were ended")
        await bus.drained()
        for name in ("a", "b", "queued"):
            assert (await bus.result(name)).status == "cancelled"
        assert executor.starts == {"a": 1, "b": 1}
        assert (await bus.control("nobody", "status"))["code"] == 404


async def test_output_is_live_and_stored(tmp_path: Path) -> None:
    async with durable(tmp_path) as bus, bus.daemon():
        live = await bus.client.subscribe("rd.v1.evt.acme.one.>")
        await bus.client.flush()
        await bus.submit("stream 3", "one", rd_output="events")
        came = [await live.next_msg(timeout=30) for _ in range(4)]
        assert [msg.subject.rpartition(".")[2] for msg in came] == ["status", "out", "out", "out"]
        assert [(msg.headers or {})["Rd-Seq"] for msg in came] == ["1", "2", "3", "4"]
        assert [getattr(decode_event(msg.data), "text", "") for msg in came] == ["", "0\n", "1\n", "2\n"]
        await bus.result("one")
        found = await bus.stored("rd.v1.res.acme.one")
        assert found is not None
        assert (found.headers or {})["Rd-Seq"] == "5"
        assert await bus.messages("RD_EVT") == 4


async def test_output_to_an_inbox(tmp_path: Path) -> None:
    async with durable(tmp_path) as bus, bus.daemon():
        to = bus.client.new_inbox()
        live = await bus.client.subscribe(f"{to}.>")
        await bus.client.flush()
        await bus.submit("stream 2", "one", rd_stream_to=to)
        came = [await live.next_msg(timeout=30) for _ in range(3)]
        assert [msg.subject.removeprefix(to) for msg in came] == [".status", ".out", ".out"]


async def test_a_job_is_started_again_where_a_header_asks_for_it(tmp_path: Path) -> None:
    async with durable(tmp_path) as bus, bus.daemon(executor := Executor()):
        await bus.submit("end timeout 1", "one", rd_retry_on="Timeout, oom")
        await bus.submit("end oom 9", "two", rd_retry_on="oom")
        one, two = await bus.result("one"), await bus.result("two")
        await bus.drained()
        assert [(each.status, each.starts) for each in (one, two)] == [("ok", 2), ("oom", 3)]
        assert (executor.starts, await bus.messages("RD_DEAD")) == ({"one": 2, "two": 3}, 0)


async def test_urgent_jobs_go_first_and_have_slots_of_their_own(tmp_path: Path) -> None:
    executor = Executor()
    async with durable(tmp_path) as bus, bus.daemon(executor, slots=4, reserved_slots=1):
        for number in range(10):
            await bus.submit("wait", f"std{number}")
        await wait_until(lambda: executor.running.total() >= 3, "all slots but one are taken")
        await bus.submit("hi", "urgent", cls="hi")
        assert (await bus.result("urgent")).status == "ok"
        assert executor.running.total() == 3
        for number in range(5):
            await bus.submit("hi", f"low{number}", cls="low")
            await bus.submit("hi", f"hi{number}", cls="hi")
        executor.go.set()
        await bus.drained()
        assert await bus.messages("RD_RES") == 21


async def test_a_delayed_job_runs_when_its_time_has_come(tmp_path: Path) -> None:
    async with durable(tmp_path) as bus, bus.daemon(executor := Executor()):
        at = datetime.now(UTC) + timedelta(seconds=1.5)
        delayed = {"Nats-Schedule": f"@at {at:%Y-%m-%dT%H:%M:%SZ}", "Nats-Schedule-Target": "rd.v1.due.acme.std.py.late"}
        await bus.send("rd.v1.sched.acme.late", encode(Job(code="hi")), delayed)
        assert (await bus.control("late", "status"))["state"] == "scheduled"
        assert not executor.starts
        assert (await bus.result("late")).status == "ok"
        assert datetime.now(UTC) >= at.replace(microsecond=0)


async def test_a_delayed_job_of_another_tenant_is_rejected(tmp_path: Path) -> None:
    async with durable(tmp_path) as bus, bus.daemon(executor := Executor()):
        delayed = {"Nats-Schedule": "@at 2020-01-01T00:00:00Z", "Nats-Schedule-Target": "rd.v1.due.victim.std.py.x"}
        await bus.send("rd.v1.sched.acme.x", encode(Job(code="hi")), delayed)
        result = await bus.result("x", "victim")
        assert (result.status, executor.starts.total()) == ("rejected", 0)
        assert "names another tenant" in result.reason


async def test_a_reply_may_not_go_everywhere(tmp_path: Path) -> None:
    async with durable(tmp_path) as bus, bus.daemon():
        await bus.submit("hi", "one", rd_reply_to="$JS.API.STREAM.DELETE.RD_DEAD")
        await bus.result("one")
        await bus.drained()
        assert await bus.messages("RD_DEAD") == 0


async def test_what_is_another_daemons_is_left_to_it(tmp_path: Path) -> None:
    pythons, others = Executor(), Executor()
    exact = {"exact": True, "tenants": ("acme", "shared")}
    async with durable(tmp_path) as bus, bus.daemon(pythons, codes=("py",), ingress=exact):
        await bus.submit("hi", "script", lang="js")
        await bus.submit("hi", "foreign", tenant="emca")
        assert (await bus.submit("hi", "mine"))["seq"] == 3
        assert (await bus.result("mine")).status == "ok"
        async with bus.daemon(others, codes=("py", "js")):
            assert (await bus.result("script")).status == "ok"
            assert (await bus.result("foreign", "emca")).status == "ok"
        assert (set(pythons.starts), set(others.starts)) == ({"mine"}, {"script", "foreign"})


async def test_a_warm_daemon_gets_the_job_before_a_cold_one(tmp_path: Path) -> None:
    warm, cold = Executor(), Executor()
    async with durable(tmp_path) as bus, bus.daemon(cold, placement="warm"):
        async with bus.daemon(warm, placement="warm", flags=("pool.enabled=yes", "languages.py.warm=2")) as daemon:
            for number in range(6):
                await wait_until(lambda: daemon.health()["pools"]["py"]["warm"] == 2, "it is warm")
                await bus.idle(2 * 4)
                await bus.submit("hi", f"job{number}")
                await bus.result(f"job{number}")
        assert (cold.starts.total(), warm.starts.total()) == (0, 6)
        await bus.submit("hi", "last")
        assert (await bus.result("last")).status == "ok", "a cold one is better than none"


@pytest.mark.parametrize("subject", ["rd.v1.job.acme.urgent.py", "rd.v1.job.acme.std", "rd.v1.job.acme.std.py.one.more"])
async def test_what_nobody_would_ever_take_is_not_accepted(tmp_path: Path, subject: str) -> None:
    async with durable(tmp_path) as bus, bus.daemon():
        with pytest.raises(NoRespondersError):
            await bus.send(subject, encode(Job(code="hi")))


async def test_a_message_may_have_a_name_of_its_own_and_its_result_a_time(tmp_path: Path) -> None:
    async with durable(tmp_path) as bus, bus.daemon():
        await bus.send("rd.v1.job.acme.std.py.one", encode(Job(code="hi")), {"Nats-Msg-Id": "order/1.a", "Rd-Result-Ttl": "2h"})
        assert (await bus.result("one")).status == "ok"
        found = await bus.stored("rd.v1.res.acme.one")
        assert found is not None
        headers = found.headers or {}
        assert headers["Nats-TTL"] == "2h"
        assert float(headers["Rd-Duration-Ms"]) > 0.1


async def test_the_embedded_server_is_prepared_by_itself_and_keeps_jobs(tmp_path: Path) -> None:
    nats = Nats(listen="127.0.0.1:0", state_dir=str(tmp_path))
    body = encode(Job(code="echo hi"))
    full = FakeServices()
    full.drain()
    async with nats.open(full) as address, nats_client(address) as client:
        sent = await client.request("rd.v1.job.acme.std.py.one", body, timeout=10)
        assert json.loads(sent.data)["stream"] == "RD_JOBS"
    async with nats.open(FakeServices()) as address, nats_client(address) as client:
        async with asyncio.timeout(30):
            while (await client.request("$JS.API.DIRECT.GET.RD_RES.rd.v1.res.acme.one", b"", timeout=10)).headers.get("Status"):
                await asyncio.sleep(0.02)


async def info(bus: Durable, what: str) -> Any:
    return json.loads((await bus.client.request(f"$SRV.{what}.runnerd", b"", timeout=10)).data)


async def test_discovery_shows_durable_jobs(tmp_path: Path) -> None:
    async with durable(tmp_path) as bus, bus.daemon():
        await bus.submit("hi", "one")
        await bus.result("one")
        data = (await info(bus, "STATS"))["endpoints"][0]["data"]["durable"]
        assert data["jobs"] == {"ok": 1}
        metadata = (await info(bus, "INFO"))["metadata"]
        assert (metadata["stream"], metadata["classes"]) == ("RD_JOBS", "hi,std,low")
