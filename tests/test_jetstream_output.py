"""What becomes of a durable job's output: stored piece by piece whatever breaks, or left out altogether."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from nats.aio.msg import Msg
from runnerd_plugins.ingress.nats.connection import NoAnswer
from runnerd_plugins.ingress.nats.jetstream.api import Api

from fake_executor import wait_until
from jetstream import Durable, Executor, durable, inbox
from runnerd import Job, decode_event, decode_result, encode

publish = Api.publish


async def stored(bus: Durable) -> list[Msg]:
    """All events in their stream, in its order."""
    subscription = await bus.client.jetstream().subscribe("rd.v1.evt.>", ordered_consumer=True)
    return [await subscription.next_msg(timeout=30) for _ in range(await bus.messages("RD_EVT"))]


def seqs(messages: list[Msg]) -> list[int]:
    return [int((msg.headers or {})["Rd-Seq"]) for msg in messages]


async def headers_of_result(bus: Durable, job: str) -> dict[str, str]:
    await bus.result(job)
    msg = await bus.stored(f"rd.v1.res.acme.{job}")
    assert msg is not None
    return msg.headers or {}


async def test_durable_events_are_all_there_before_the_result(tmp_path: Path) -> None:
    async with durable(tmp_path) as bus, bus.daemon():
        await bus.submit("stream 20", "one", rd_output="durable")
        headers = await headers_of_result(bus, "one")
        events = await stored(bus)
        assert (seqs(events), headers["Rd-Seq"], headers["Rd-Dropped"]) == (list(range(1, 22)), "22", "0")
        assert [getattr(decode_event(msg.data), "text", "") for msg in events] == ["", *(f"{i}\n" for i in range(20))]
        assert len({(msg.headers or {})["Nats-Msg-Id"] for msg in events}) == 21


async def test_durable_events_outlive_a_killed_server(tmp_path: Path) -> None:
    executor = Executor()
    async with durable(tmp_path) as bus, bus.daemon(executor, ack_wait_s=30.0):
        await bus.submit("stream 40 0.05", "one", rd_output="durable")
        await wait_until(lambda: executor.running["one"] == 1, "it runs")
        await asyncio.sleep(0.3)
        await bus.server.kill()
        await wait_until(lambda: not executor.running["one"], "the job ends as if nothing were")
        await bus.server.start()
        headers = await headers_of_result(bus, "one")
        assert (seqs(await stored(bus)), headers["Rd-Dropped"]) == (list(range(1, 42)), "0")
        assert executor.starts["one"] == 1


async def test_an_ack_that_was_lost_doubles_no_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    async def deaf(self: Api, subject: str, body: bytes, headers: dict[str, str], **more: Any) -> None:
        await publish(self, subject, body, headers, **more)
        if ".evt." in subject:
            tried.append(headers["Nats-Msg-Id"])
            if tried.count(tried[-1]) == 1:
                raise NoAnswer("the ack was lost")

    monkeypatch.setattr(Api, "publish", deaf)
    async with durable(tmp_path) as bus, bus.daemon():
        await bus.submit("stream 3", "one", rd_output="durable")
        headers = await headers_of_result(bus, "one")
        assert (seqs(await stored(bus)), headers["Rd-Dropped"], len(tried)) == ([1, 2, 3, 4], "0", 8)


async def test_a_slow_bus_slows_no_job_and_what_is_over_the_bound_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = asyncio.Event()

    async def slow(self: Api, subject: str, body: bytes, headers: dict[str, str], **more: Any) -> None:
        if ".evt." in subject:
            await go.wait()
        await publish(self, subject, body, headers, **more)

    monkeypatch.setattr(Api, "publish", slow)
    executor = Executor()
    async with durable(tmp_path) as bus, bus.daemon(executor, flags=("scheduler.stream_events=5",)):
        await bus.submit("stream 100", "one", rd_output="durable")
        await wait_until(lambda: executor.starts["one"] == 1 and not executor.running["one"], "it has ended")
        assert (await bus.control("one", "status"))["status"] == "ok"
        assert await bus.stored("rd.v1.res.acme.one") is None, "the result waits for its output"
        go.set()
        headers = await headers_of_result(bus, "one")
        kept = len(await stored(bus))
        assert 5 <= kept < 20
        assert int(headers["Rd-Dropped"]) == 101 - kept


async def test_a_result_does_not_wait_for_a_stream_that_is_gone(tmp_path: Path) -> None:
    async with durable(tmp_path) as bus, bus.daemon(ingress={"patience_s": 0.5}):
        await bus.api("STREAM.DELETE.RD_EVT")
        await bus.submit("stream 30", "one", rd_output="durable")
        headers = await headers_of_result(bus, "one")
        assert (headers["Rd-Status"], headers["Rd-Seq"], headers["Rd-Dropped"]) == ("ok", "32", "31")


async def test_no_output_but_in_the_record(tmp_path: Path) -> None:
    async with durable(tmp_path) as bus, bus.daemon(), inbox(bus.client) as (to, answers):
        await bus.send("rd.v1.job.acme.std.py.one", encode(Job(code="hi", stream=True)), {"Rd-Output": "none", "Rd-Reply-To": to})
        result = await bus.result("one")
        assert (result.status, result.stdout, result.stdout_truncated, result.stderr_truncated) == ("ok", "", True, False)
        await wait_until(lambda: len(answers) == 1, "the reply came")
        assert decode_result(answers[0].data) == result
        assert (await bus.control("one", "status"))["stdout"] == "hi\n"
        assert await bus.messages("RD_EVT") == 0
