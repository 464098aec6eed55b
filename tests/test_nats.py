"""The NATS ingress against a real server: jobs, streams, questions, discovery."""

import asyncio
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from nats.aio.msg import Msg
from nats.errors import NoRespondersError

from fake_services import FakeServices
from nats_fixture import wait_until
from nats_ingress import Bench, bench, opened, packed, result_of
from runnerd import MSGPACK, Job, Output, Result, Started, decode_event, encode


async def test_a_job_in_and_its_result_out(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        msg = await b.run("echo hi", {"Rd-Job-Id": "job-1", "Rd-Correlation-Id": "c 7", "traceparent": "mine"})
        result = result_of(msg)
        assert (result.status, result.stdout, result.id, result.tenant, result.lang) == ("ok", "hi", "job-1", "acme", "py")
        headers = dict(msg.headers or {})
        assert float(headers.pop("Rd-Duration-Ms")) > 0
        assert headers.pop("Rd-Worker") == f"{socket.gethostname()}/{os.getpid()}"
        assert headers == {
            "traceparent": "mine",
            "Content-Type": "application/json",
            "Rd-Kind": "result",
            "Rd-Job-Id": "job-1",
            "Rd-Correlation-Id": "c 7",
            "Rd-Status": "ok",
            "Rd-Exit-Code": "0",
        }


async def test_messagepack_in_and_out_and_across(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        body = packed(Job(code="echo hi"))
        msg = await b.ask("rd.v1.run.acme.py", body, {"content-type": MSGPACK})
        assert msg.headers is not None
        assert msg.headers["Content-Type"] == MSGPACK
        assert result_of(msg).stdout == "hi"
        msg = await b.ask("rd.v1.run.acme.py", body, {"CONTENT-TYPE": MSGPACK, "aCCept": "application/json, */*"})
        assert json.loads(msg.data)["stdout"] == "hi"


async def test_a_program_that_fails_is_no_error_of_the_service(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        msg = await b.run("exit 3")
        assert msg.headers is not None
        assert (msg.headers["Rd-Status"], msg.headers["Rd-Exit-Code"]) == ("failed", "3")
        assert "Nats-Service-Error" not in msg.headers


async def test_headers_lower_limits_and_message_id_is_the_jobs(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        headers = {"Rd-Timeout-Ms": "1500", "rd-queue-ttl-ms": "250", "Nats-Msg-Id": "job-2", "Rd-Retry-On": "OOM"}
        assert result_of(await b.run("echo", headers)).id == "job-2"
        (delivery,) = b.services.deliveries
        assert (delivery.wall_s, delivery.queue_ttl_s, delivery.job_id, delivery.retry_on) == (1.5, 0.25, "job-2", ("oom",))


async def collected(b: Bench, subject: str, job: Job, headers: dict[str, str], until: Callable[[list[Msg]], object]) -> list[Msg]:
    """All that arrives below an inbox until `until(messages)`."""
    inbox = b.client.new_inbox()
    got: list[Msg] = []

    async def receive(msg: Msg) -> None:
        got.append(msg)

    subscription = await b.client.subscribe(f"{inbox}.>", cb=receive)
    headers = {name: value.replace("INBOX", inbox) for name, value in headers.items()}
    reply = f"{inbox}.reply" if "no-reply" not in headers else ""
    headers.pop("no-reply", None)
    await b.client.publish(subject, encode(job), reply=reply, headers=headers)
    await wait_until(lambda: until(got), "the whole stream")
    await subscription.unsubscribe()
    for msg in got:
        msg.subject = msg.subject.removeprefix(inbox)
    return got


async def test_streaming_to_the_reply_keeps_order_and_ends_with_an_empty_message(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        got = await collected(b, "rd.v1.run.acme.py", Job(code="stream 50 100"), {"Rd-Stream": "reply"}, lambda g: g and not g[-1].data)
        *events, result, sentinel = got
        assert (sentinel.data, sentinel.headers) == (b"", None)
        assert result_of(result).stdout == "streamed"
        assert [msg.headers["Rd-Seq"] for msg in got[:-1]] == [str(n) for n in range(1, 53)]
        assert [msg.headers["Rd-Kind"] for msg in got[:-1]] == ["started", *(["out", "out", "err"] * 17)[:50], "result"]
        assert result.headers["Rd-Dropped"] == "0"
        decoded = [decode_event(msg.data) for msg in events]
        assert isinstance(decoded[0], Started)
        assert [event.seq for event in decoded[1:] if isinstance(event, Output)] == list(range(1, 51))


async def test_streaming_by_the_body_alone_goes_to_the_reply_too(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        got = await collected(b, "rd.v1.run.acme.py", Job(code="echo hi", stream=True), {}, lambda g: g and not g[-1].data)
        assert [msg.headers["Rd-Kind"] for msg in got[:-1]] == ["started", "out", "result"]


async def test_streaming_to_an_inbox_of_its_own(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        headers = {"Rd-Stream-To": "INBOX.live"}
        got = await collected(b, "rd.v1.run.acme.py", Job(code="stream 3 5"), headers, lambda g: g and g[-1].subject.endswith(".reply"))
        assert [msg.subject for msg in got] == [".live.status", ".live.out", ".live.out", ".live.err", ".reply"]
        got = await collected(
            b, "rd.v1.run.acme.py", Job(code="echo hi"), {**headers, "no-reply": ""}, lambda g: g and g[-1].headers["Rd-Kind"] == "result"
        )
        assert [msg.subject for msg in got] == [".live.status", ".live.out", ".live.status"]


async def test_status_and_cancel(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        waiting = asyncio.create_task(b.run("wait", {"Rd-Job-Id": "slow"}))
        await wait_until(lambda: b.services.running, "the job runs")
        msg = await b.ask("rd.v1.ctl.acme.slow.status")
        assert json.loads(msg.data) == {"id": "slow", "state": "running"}
        assert msg.headers["Rd-Status"] == "running"
        cancelled = await b.ask("rd.v1.ctl.acme.slow.cancel", headers={"Accept": MSGPACK})
        assert result_of(cancelled).status == "cancelled"
        answer = await waiting
        assert result_of(answer).status == "cancelled"
        assert answer.headers["Nats-Service-Error-Code"] == "499"
        assert result_of(await b.ask("rd.v1.ctl.acme.slow.status")).status == "cancelled"


@pytest.mark.parametrize(
    ("subject", "code"),
    [
        ("rd.v1.ctl.acme.nobody.status", "404"),
        ("rd.v1.ctl.other.slow.cancel", "404"),
        ("rd.v1.ctl.acme.slow.explode", "400"),
        ("rd.v1.ctl.ac%me.slow.status", "400"),
        ("rd.v1.info.weather", "400"),
    ],
)
async def test_questions_without_an_answer(tmp_path: Path, subject: str, code: str) -> None:
    async with bench(tmp_path) as b:
        msg = await b.ask(subject)
        assert msg.headers["Nats-Service-Error-Code"] == code
        assert json.loads(msg.data)["error"]


async def test_info(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        assert [lang["code"] for lang in json.loads((await b.ask("rd.v1.info.langs")).data)] == ["js", "py"]
        limits = json.loads((await b.ask("rd.v1.info.limits")).data)
        assert limits["max_payload"] == b.client.max_payload
        schema = json.loads((await b.ask("rd.v1.info.schema")).data)
        jsonschema.Draft202012Validator.check_schema(schema)
        result = json.loads((await b.run("echo hi")).data)
        jsonschema.validate(result, schema)


IDENTITY = {
    "type": "object",
    "required": ["type", "name", "id", "version", "metadata"],
    "properties": {
        "name": {"pattern": "^[A-Za-z0-9_-]+$"},
        "id": {"minLength": 1, "type": "string"},
        "version": {"pattern": r"^\d+\.\d+\.\d+"},
        "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}
ENDPOINT = {"name": {"type": "string"}, "subject": {"type": "string"}, "queue_group": {"type": "string"}}
COUNTS = {name: {"type": "integer", "minimum": 0} for name in ("num_requests", "num_errors", "processing_time", "average_processing_time")}
ANSWERS = {
    "ping": {},
    "info": {
        "description": {"type": "string"},
        "endpoints": {
            "type": "array",
            "items": {
                "required": [*ENDPOINT, "metadata"],
                "properties": {**ENDPOINT, "metadata": {"type": "object"}},
                "additionalProperties": False,
            },
        },
    },
    "stats": {
        "started": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z$"},
        "endpoints": {
            "type": "array",
            "items": {
                "required": [*ENDPOINT, *COUNTS, "last_error"],
                "properties": {**ENDPOINT, **COUNTS, "last_error": {"type": "string"}, "data": {"type": "object"}},
                "additionalProperties": False,
            },
        },
    },
}


@pytest.mark.parametrize("verb", ["ping", "info", "stats"])
async def test_discovery_as_nats_micro_reads_it(tmp_path: Path, verb: str) -> None:
    async with bench(tmp_path) as b:
        subject = f"$SRV.{verb.upper()}"
        answer = json.loads((await b.ask(subject)).data)
        required = [*IDENTITY["required"], *ANSWERS[verb]]
        properties = {**IDENTITY["properties"], **ANSWERS[verb], "type": {"const": f"io.nats.micro.v1.{verb}_response"}}
        jsonschema.validate(answer, {**IDENTITY, "required": required, "properties": properties, "additionalProperties": False})
        for narrower in (f"{subject}.runnerd", f"{subject}.runnerd.{answer['id']}"):
            assert json.loads((await b.ask(narrower)).data)["id"] == answer["id"]
        with pytest.raises(NoRespondersError):
            await b.ask(f"{subject}.another")


async def test_stats_count_requests_and_errors(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.run("echo hi")
        await b.run("echo hi", lang="cobol")
        run, *others = json.loads((await b.ask("$SRV.STATS")).data)["endpoints"]
        assert (run["name"], run["num_requests"], run["num_errors"], run["last_error"][:4]) == ("run", 2, 1, "404:")
        assert run["average_processing_time"] > 0
        assert [each["name"] for each in others] == ["ctl-status", "ctl-cancel", "info"]
        assert run["data"]["jobs"] == {"ok": 1}


async def test_own_languages_only_and_some_tenants_only(tmp_path: Path) -> None:
    async with bench(tmp_path, exact=True, tenants=("acme", "globex")) as b:
        assert result_of(await b.run("echo hi", lang="js", tenant="globex")).stdout == "hi"
        for lang, tenant in (("cobol", "acme"), ("py", "initech")):
            with pytest.raises(NoRespondersError):
                await b.run("echo hi", lang=lang, tenant=tenant)


async def test_a_full_daemon_leaves_the_group_and_comes_back(tmp_path: Path) -> None:
    async with bench(tmp_path, slots=2, prefetch=1) as b:
        waiting = [asyncio.create_task(b.run("wait")) for _ in range(3)]
        async with asyncio.timeout(30):
            while (await b.stats())["member"]:
                await asyncio.sleep(0.01)
        with pytest.raises(NoRespondersError):
            await b.run("echo hi")
        assert json.loads((await b.ask("$SRV.PING")).data)["metadata"]["state"] == "full"
        while not all(task.done() for task in waiting):
            b.services.release()
            await asyncio.sleep(0.01)
        assert {result_of(await task).status for task in waiting} == {"ok"}
        async with asyncio.timeout(30):
            while not (await b.stats())["member"]:
                await asyncio.sleep(0.01)
        assert result_of(await b.run("echo hi")).stdout == "hi"


async def test_a_full_daemon_leaves_the_work_to_another(tmp_path: Path) -> None:
    roomy = FakeServices(slots=100)
    async with bench(tmp_path, slots=1, prefetch=0) as b:
        full = asyncio.create_task(b.run("wait"))
        async with asyncio.timeout(30):
            while await members(b):
                await asyncio.sleep(0.01)
        async with opened(roomy, b.server.url):
            for _ in range(20):
                assert result_of(await b.run("echo hi")).stdout == "hi"
        assert (len(b.services.deliveries), len(roomy.deliveries)) == (1, 20)
        b.services.release()
        assert result_of(await full).status == "ok"


async def members(b: Bench) -> int:
    """How many connections take jobs."""
    return sum("rd.v1.run.*.*" in each.get("subscriptions_list", ()) for each in await b.server.connections())


async def test_a_refusal_ends_a_stream_as_well(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        for lang, code in (("cobol", "echo hi"), ("py", "interrupted")):
            got = await collected(b, f"rd.v1.run.acme.{lang}", Job(code=code), {"Rd-Stream": "reply"}, lambda g: g and not g[-1].data)
            assert got[-2].headers["Nats-Service-Error-Code"] in ("404", "503")


@pytest.mark.parametrize(
    ("code", "status", "retry"),
    [("saturated", "503", "2500"), ("interrupted", "503", "1000"), ("crash", "500", None), ("nothing", "500", None)],
)
async def test_what_is_no_result_is_said_so(tmp_path: Path, code: str, status: str, retry: str | None) -> None:
    async with bench(tmp_path) as b:
        msg = await b.run(code, {"Rd-Job-Id": "j"})
        assert msg.headers["Nats-Service-Error-Code"] == status
        assert msg.headers.get("Rd-Retry-After-Ms") == retry
        assert "Rd-Status" not in msg.headers
        assert "secrets" not in str(msg.headers) + msg.data.decode()
        assert isinstance(result_of(await b.run("echo hi")), Result)


async def test_all_slots_are_used_however_jobs_come(tmp_path: Path) -> None:
    async with bench(tmp_path, slots=6, prefetch=0) as b:
        waiting = []
        for number in range(1, 7):
            waiting.append(asyncio.create_task(b.run("wait")))
            await wait_until(lambda number=number: len(b.services.running) == number, f"{number} jobs run")
        b.services.release()
        assert {result_of(await each).status for each in waiting} == {"ok"}
        await b.all_done()


async def test_a_question_that_fails_harms_nothing(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:

        async def broken(tenant: str, job_id: str) -> None:
            raise RuntimeError("secret")

        b.services.status = broken  # type: ignore[assignment, method-assign]
        msg = await b.ask("rd.v1.ctl.acme.j.status")
        assert (msg.headers["Nats-Service-Error-Code"], b"secret" in msg.data) == ("500", False)
        assert result_of(await b.run("echo on")).stdout == "on"
