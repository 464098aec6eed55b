"""The RabbitMQ ingress against a real broker: jobs, answers, streams, questions, retries, dead letters."""

import gzip
import json
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage

from rabbitmq_bench import bench, client, headers_of, held, opened, result_of
from rabbitmq_fixture import Broker
from runnerd import MSGPACK, Job, Output, Started, decode_event, encode
from runnerd.testing import FakeServices as Daemon


async def test_a_job_in_and_its_result_out(rabbitmq: Broker) -> None:
    async with bench(rabbitmq) as b:
        msg = await b.client.run("echo hi", message_id="job-1", headers={"traceparent": "00-mine"})
        result = result_of(msg)
        assert (result.status, result.stdout, result.id, result.tenant, result.lang) == ("ok", "hi", "job-1", "acme", "py")
        assert (msg.type, msg.message_id, msg.content_type, msg.delivery_mode) == ("rd.result", "job-1.res", "application/json", 2)
        headers = headers_of(msg)
        assert headers.pop("Rd-Duration-Ms") > 0
        assert headers == {"Rd-Kind": "result", "Rd-Job-Id": "job-1", "Rd-Status": "ok", "Rd-Exit-Code": 0, "traceparent": "00-mine"}
        (delivery,) = b.services.deliveries
        assert (delivery.kept, delivery.trace) == (True, {"traceparent": "00-mine"})


async def test_bodies_in_both_types_and_compressed(rabbitmq: Broker) -> None:
    async with bench(rabbitmq) as b:
        job = Job(code="echo hi")
        msg = await b.client.answer(await b.client.send(encode(job, MSGPACK), content_type=MSGPACK))
        assert (msg.content_type, result_of(msg).stdout) == (MSGPACK, "hi")
        across = {"content_type": MSGPACK, "headers": {"Accept": "application/json, */*"}}
        msg = await b.client.answer(await b.client.send(encode(job, MSGPACK), **across))
        assert json.loads(msg.body)["stdout"] == "hi"
        await b.client.send(gzip.compress(encode(job)), content_encoding="gzip", reply_to=None)
        await held(lambda: len(b.services.deliveries) == 3, "the third job")
        assert b.services.deliveries[-1].content_encoding == "gzip"


async def test_a_program_that_fails_is_no_error_of_the_service(rabbitmq: Broker) -> None:
    async with bench(rabbitmq) as b:
        headers = headers_of(await b.client.run("exit 3"))
        assert (headers["Rd-Status"], headers["Rd-Exit-Code"]) == ("failed", 3)
        assert "Rd-Error" not in headers


async def test_headers_lower_limits_and_expiration_is_a_time_to_wait(rabbitmq: Broker) -> None:
    async with bench(rabbitmq) as b:
        await b.client.run(
            "echo",
            headers={"Rd-Timeout-Ms": 1500, "rd-queue-ttl-ms": "250000", "rd-job-id": "mine", "Rd-Retry-On": "timeout, oom"},
            expiration=90,
        )
        (delivery,) = b.services.deliveries
        assert delivery.retry_on == ("timeout", "oom")
        assert (delivery.wall_s, delivery.queue_ttl_s, delivery.job_id) == (1.5, 90.0, "mine")


async def test_every_class_has_its_queue_and_the_queue_itself_takes_jobs(rabbitmq: Broker) -> None:
    services = Daemon()
    async with rabbitmq.vhost() as vhost, opened(services, rabbitmq.url(vhost)), client(rabbitmq.url(vhost)) as c:
        for cls in ("hi", "std", "low"):
            assert result_of(await c.run(f"echo {cls}", f"job.acme.{cls}.js")).lang == "js"
        body = encode(Job(code="echo straight", lang="python", tenant="globex"))
        result = result_of(await c.answer(await c.send(body, "rd.jobs.std", exchange="")))
        assert (result.stdout, result.tenant, result.lang) == ("straight\n", "globex", "py")


async def test_direct_reply_to(rabbitmq: Broker) -> None:
    """Answers to pseudo-queues are not mandatory: the broker would return each although it was delivered."""
    async with bench(rabbitmq) as b:
        got: list[AbstractIncomingMessage] = []

        async def receive(message: AbstractIncomingMessage) -> None:
            got.append(message)

        channel = await b.client.connection.channel()
        queue = await channel.get_queue("amq.rabbitmq.reply-to", ensure=False)
        await queue.consume(receive, no_ack=True)
        message = aio_pika.Message(encode(Job(code="echo hi")), reply_to="amq.rabbitmq.reply-to", correlation_id="7")
        await (await channel.get_exchange("rd.jobs", ensure=False)).publish(message, "job.acme.std.py")
        await held(lambda: got, "the answer")
        assert (result_of(got[0]).stdout, got[0].correlation_id, got[0].delivery_mode) == ("hi", "7", 1)
        await channel.close()
        await b.until(ready=0, unacked=0)


async def test_without_a_reply_queue_the_record_has_the_result(rabbitmq: Broker) -> None:
    async with bench(rabbitmq) as b:
        await b.client.send(encode(Job(code="echo hi")), reply_to=None, message_id="quiet")
        await held(lambda: b.services.results, "the job is over")
        await b.client.send(encode(Job(code="echo hi")), reply_to="rd.reply.nobody", message_id="gone")
        await held(lambda: len(b.services.results) == 2, "the job is over")
        await b.until(ready=0, unacked=0)
        msg = await b.client.ask("ctl.acme.gone.status")
        assert result_of(msg).stdout == "hi"


async def test_output_to_the_reply_queue_ends_with_the_result(rabbitmq: Broker) -> None:
    async with bench(rabbitmq) as b:
        correlation = await b.client.send(encode(Job(code="stream 50 100")), headers={"rd-stream": "reply"})
        result = await b.client.answer(correlation)
        *events, last = b.client.answers(correlation)
        assert last is result
        assert [msg.headers["Rd-Seq"] for msg in [*events, last]] == list(range(1, 53))
        assert [msg.type for msg in events] == ["rd.started", *(["rd.out", "rd.out", "rd.err"] * 17)[:50]]
        assert (last.headers["Rd-Dropped"], {msg.delivery_mode for msg in events}) == (0, {1})
        decoded = [decode_event(msg.body) for msg in events]
        assert isinstance(decoded[0], Started)
        assert [event.seq for event in decoded[1:] if isinstance(event, Output)] == list(range(1, 51))


async def test_output_to_a_queue_of_its_own_and_to_the_events(rabbitmq: Broker) -> None:
    async with bench(rabbitmq, events=True) as b:
        channel = b.client.channel
        mine = await channel.declare_queue("rd.reply.live", exclusive=True)
        correlation = await b.client.send(encode(Job(code="stream 3 5")), headers={"rd-stream-to": "rd.reply.live"})
        await b.client.answer(correlation)
        assert [(await mine.get(no_ack=True)).type for _ in range(4)] == ["rd.started", "rd.out", "rd.out", "rd.err"]
        assert len(b.client.answers(correlation)) == 1
        await mine.bind("rd.events", "evt.acme.#")
        await b.client.run("stream 1 5", message_id="ev", headers={"rd-output": "events"})
        got = [await mine.get(no_ack=True) for _ in range(3)]
        assert [msg.routing_key for msg in got] == ["evt.acme.ev.started", "evt.acme.ev.out", "evt.acme.ev.result"]


async def test_status_and_cancel(rabbitmq: Broker) -> None:
    async with bench(rabbitmq) as b:
        correlation = await b.client.send(encode(Job(code="wait")), message_id="slow")
        await held(lambda: b.services.running, "the job runs")
        msg = await b.client.ask("ctl.acme.slow.status")
        assert (json.loads(msg.body), msg.headers["Rd-Status"]) == ({"id": "slow", "state": "running"}, "running")
        cancelled = await b.client.ask("ctl.acme.slow.cancel", headers={"accept": MSGPACK})
        assert result_of(cancelled).status == "cancelled"
        answer = await b.client.answer(correlation)
        assert (result_of(answer).status, answer.headers["Rd-Error-Code"]) == ("cancelled", 499)


@pytest.mark.parametrize(
    ("key", "code"),
    [("ctl.acme.nobody.status", 404), ("ctl.acme.slow.explode", 400), ("ctl.ac%me.slow.status", 400), ("ctl.acme", 400)],
)
async def test_questions_without_an_answer(rabbitmq: Broker, key: str, code: int) -> None:
    async with bench(rabbitmq) as b:
        msg = await b.client.ask(key)
        assert (msg.headers["Rd-Error-Code"], msg.type) == (code, "rd.refused")
        assert json.loads(msg.body)["error"]


async def test_a_result_that_is_too_large_is_cut_and_says_so(rabbitmq: Broker) -> None:
    async with bench(rabbitmq, message_bytes=20_000) as b:
        msg = await b.client.run("big 50000")
        result = result_of(msg)
        assert len(msg.body) < 20_000
        assert (result.stdout_truncated, msg.headers["Rd-Cut"]) == (True, True)


async def test_what_can_not_run_now_comes_again_later(rabbitmq: Broker) -> None:
    async with bench(rabbitmq) as b:
        refusals: list[Any] = ["saturated", "interrupted", "crash"]
        submit = b.services.submit

        async def unlucky(delivery: Any) -> Any:
            if refusals:
                delivery = type(delivery)(
                    **{**{f: getattr(delivery, f) for f in delivery.__struct_fields__}, "body": _code(refusals.pop())}
                )
            async for event in submit(delivery):
                yield event

        b.services.submit = unlucky  # type: ignore[method-assign]
        msg = await b.client.run("echo at last", "job.acme.hi.py", headers={"mine": [1, {"two": "3"}]}, message_id="unlucky")
        assert result_of(msg).stdout == "at last"
        assert [delivery.job_id for delivery in b.services.deliveries] == ["unlucky"] * 4
        assert b.services.deliveries[-1].waited_s > 0.9
        for queue in ("rd.retry.1s", "rd.jobs.hi"):
            await b.until(queue, ready=0, unacked=0)
        assert await b.letters() == []


def _code(word: str) -> bytes:
    return encode(Job(code=word))


async def test_a_dead_job_is_kept_with_its_reason(rabbitmq: Broker) -> None:
    async with bench(rabbitmq) as b:
        msg = await b.client.run("die of bad luck", message_id="d-1", headers={"mine": "kept"})
        assert (result_of(msg).status, msg.headers["Rd-Error-Code"]) == ("dead", 500)
        (letter,) = await b.letters()
        told = {name: letter.headers[name] for name in ("Rd-Dead-Reason", "Rd-Attempts", "Rd-Job-Id", "Rd-Routing-Key", "mine")}
        assert told == {
            "Rd-Dead-Reason": "of bad luck",
            "Rd-Attempts": 3,
            "Rd-Job-Id": "d-1",
            "Rd-Routing-Key": "job.acme.std.py",
            "mine": "kept",
        }
        assert (letter.body, letter.message_id, letter.reply_to) == (_code("die of bad luck"), "d-1", b.client.queue.name)


async def test_in_hand_are_never_more_than_the_slots(rabbitmq: Broker) -> None:
    async with bench(rabbitmq, slots=3) as b:
        sent = [await b.client.send(encode(Job(code="wait")), message_id=f"w-{number}") for number in range(8)]
        await b.until(ready=5, unacked=3)
        while len(b.services.results) < 8:
            b.services.release()
            _, unacked, _ = await rabbitmq.queue(b.vhost, "rd.jobs.std")
            assert unacked <= 3
        for correlation in sent:
            await b.client.answer(correlation)
        assert b.services.most_in_hand == 3


async def test_more_slots_are_used_at_once(rabbitmq: Broker) -> None:
    async with bench(rabbitmq, slots=1) as b:
        for number in range(4):
            await b.client.send(encode(Job(code="wait")), message_id=f"w-{number}")
        await b.until(ready=3, unacked=1)
        b.services.slots = 4
        b.services._changed.set()
        await b.until(ready=0, unacked=4)
        await held(lambda: len(b.services.running) == 4, "all run")


async def test_priority_of_the_consumer(rabbitmq: Broker) -> None:
    async with bench(rabbitmq, consumer_priority=7) as b:
        assert result_of(await b.client.run("echo hi")).stdout == "hi"
