"""Durable jobs when something breaks: servers and daemons that are killed, stopped, full, or without what they need."""

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from fake_executor import wait_until
from jetstream import Durable, Executor, durable, inbox, process
from redis_fixture import RedisServer
from runnerd import IngressError, Job, Owner, decode_result, encode
from scheduling import Frozen


async def running(bus: Durable, job_id: str) -> None:
    """Wait until a daemon runs the job."""
    async with asyncio.timeout(60):
        while (await bus.control(job_id, "status")).get("state") != "running":
            await asyncio.sleep(0.02)


async def test_a_killed_server_loses_and_doubles_nothing(tmp_path: Path) -> None:
    executor = Executor()
    async with durable(tmp_path) as bus, bus.daemon(executor, slots=8), inbox(bus.client) as (to, answers):
        for number in range(40):
            await bus.submit("wait" if number < 4 else "hi", f"job{number}", rd_reply_to=to)
        await wait_until(lambda: executor.running.total() == 4, "some run")
        await bus.server.kill()
        executor.go.set()
        await asyncio.sleep(0.5)
        await bus.server.start()
        await bus.drained()
        assert await bus.messages("RD_RES") == 40
        assert set(executor.starts.values()) == {1}
        assert {decode_result(answer.data).status for answer in answers} == {"ok"}


async def test_a_killed_daemons_job_runs_again_and_no_more_than_that(tmp_path: Path) -> None:
    async with durable(tmp_path) as bus:
        flags = ("store.kv.kind=disk", "scheduler.lease_s=1")
        async with process(bus, "daemon", *flags) as first:
            await bus.submit("sleep 2", "one")
            await running(bus, "one")
            await first.end(signal.SIGKILL)
        async with process(bus, "daemon", *flags):
            result = await bus.result("one")
            await bus.drained()
        assert (result.status, result.starts) == ("ok", 2)
        assert await bus.messages("RD_RES") == 1


async def test_a_daemon_that_was_killed_after_its_jobs_end_answers_from_the_record(tmp_path: Path) -> None:
    async with durable(tmp_path) as bus, inbox(bus.client) as (to, answers):
        flags = ("store.kv.kind=disk", "scheduler.lease_s=1")
        async with process(bus, "daemon", *flags) as first:
            await bus.submit("hi", "one")
            ended = await bus.result("one")
            await bus.drained()
            await first.end(signal.SIGKILL)
        await bus.submit("hi", "one", nats_msg_id="again", rd_reply_to=to)
        async with process(bus, "daemon", *flags):
            await wait_until(lambda: len(answers) == 1, "it is answered")
        assert decode_result(answers[0].data) == ended


async def test_a_stopped_daemons_job_ends_once(tmp_path: Path) -> None:
    """Stopped for longer than its messages and its lease last: another daemon takes over, and the first one's end is too late."""
    async with durable(tmp_path) as bus, RedisServer(tmp_path / "redis") as redis, inbox(bus.client) as (to, answers):
        flags = ("store.kv.kind=redis", f"store.kv.port={redis.port}", "scheduler.lease_s=1")
        async with process(bus, "first", *flags, ack_wait_s=1.0) as first:
            await bus.submit("sleep 1", "one", rd_reply_to=to)
            await running(bus, "one")
            first.signal(signal.SIGSTOP)
            async with process(bus, "second", *flags, ack_wait_s=1.0):
                result = await bus.result("one")
                first.signal(signal.SIGCONT)
                await bus.submit("hi", "two")
                await bus.drained()
                assert await first.end(signal.SIGTERM) == 0
        assert (result.status, result.starts) == ("ok", 2)
        assert {answer.data for answer in answers} == {answers[0].data}
        assert await bus.messages("RD_RES") == 2


async def test_a_drained_daemon_gives_back_what_it_can_not_finish(tmp_path: Path) -> None:
    first, second = Executor(), Executor()
    async with durable(tmp_path) as bus:
        async with bus.daemon(first, slots=1, grace_s=0.1, ahead=3, ack_wait_s=60.0):
            for number in range(4):
                await bus.submit("wait", f"job{number}")
            await wait_until(lambda: first.running.total() == 1, "one runs")
            async with asyncio.timeout(30):
                while await bus.deliveries() < 4:
                    await asyncio.sleep(0.02)
        second.go.set()
        async with bus.daemon(second, ack_wait_s=60.0):
            await bus.drained()  # long before any of them is delivered again because nobody was heard of
        results = [await bus.result(f"job{number}") for number in range(4)]
        assert {(result.status, result.starts) for result in results} == {("ok", 1)}


async def test_draining_again_and_again_kills_no_job(tmp_path: Path) -> None:
    async with durable(tmp_path) as bus:
        for _ in range(5):
            async with bus.daemon(executor := Executor(), slots=1, grace_s=0.05):
                if not await bus.messages("RD_JOBS"):
                    await bus.submit("wait", "one")
                await wait_until(lambda: executor.running.total() == 1, "it runs")
        async with bus.daemon():
            await bus.control("one", "cancel")
            await bus.drained()
        assert (await bus.result("one")).status == "cancelled"


async def test_a_long_job_is_not_delivered_a_second_time(tmp_path: Path) -> None:
    async with durable(tmp_path) as bus:
        async with bus.daemon(ack_wait_s=1.0):
            pass  # makes the consumers; their time holds, whatever a later daemon's settings say
        async with bus.daemon(ack_wait_s=60.0):
            await bus.submit("sleep 2.5", "one")
            await bus.result("one")
            await bus.drained()
        assert await bus.deliveries() == 1


async def test_a_backlog_is_pulled_as_slots_come_free(tmp_path: Path) -> None:
    executor = Executor()
    async with durable(tmp_path) as bus:
        async with bus.daemon():
            pass  # makes the streams
        for start in range(0, 2000, 200):
            sent = [bus.send("rd.v1.job.acme.std.py", encode(Job(code="hi")), {"Nats-Msg-Id": f"j{n}"}) for n in range(start, start + 200)]
            await asyncio.gather(*sent)
        most = 0
        async with bus.daemon(executor, slots=4) as daemon, asyncio.TaskGroup() as tasks:

            async def look() -> None:
                nonlocal most
                while True:
                    health = daemon.health()
                    most = max(most, health["running"] + health["queued"])
                    await asyncio.sleep(0)

            looking = tasks.create_task(look())
            await bus.drained()
            looking.cancel()
        assert await bus.messages("RD_RES") == 2000
        assert executor.starts.total() == 2000
        assert most <= 4


async def test_daemons_share_the_work_by_their_slots(tmp_path: Path) -> None:
    small, large = Executor(), Executor()
    async with durable(tmp_path) as bus, bus.daemon(small, slots=2), bus.daemon(large, slots=6):
        for number in range(200):
            await bus.submit("sleep 0.02", f"job{number}")
        await bus.drained()
        assert small.starts.total() + large.starts.total() == 200
        assert large.starts.total() > small.starts.total()


async def test_a_full_daemon_leaves_what_it_asked_for_before_to_another(tmp_path: Path) -> None:
    full, idle = Executor(), Executor()
    async with durable(tmp_path) as bus, bus.daemon(full, slots=1):
        await bus.submit("wait", "long")
        await wait_until(lambda: full.running.total() == 1, "the only slot is taken, and other classes were asked for before")
        async with bus.daemon(idle, slots=3):
            for cls in ("hi", "low"):
                await bus.submit("hi", cls, cls=cls)
                assert (await bus.result(cls)).status == "ok"
        assert (set(full.starts), set(idle.starts)) == ({"long"}, {"hi", "low"})
        full.go.set()
        await bus.drained()


async def test_a_consumer_that_is_deleted_under_the_loop_is_made_again(tmp_path: Path) -> None:
    async with durable(tmp_path) as bus, bus.daemon():
        await bus.submit("hi", "one")
        await bus.result("one")
        await bus.api("CONSUMER.DELETE.RD_JOBS.rd-std")
        await bus.submit("hi", "two")
        assert (await bus.result("two")).status == "ok"


async def test_a_consumer_that_an_operator_deleted_is_waited_for(tmp_path: Path) -> None:
    async with durable(tmp_path) as bus:
        async with bus.daemon():
            config = (await bus.api("CONSUMER.INFO.RD_JOBS.rd-std"))["config"]
        async with bus.daemon(streams="verify"):
            await bus.api("CONSUMER.DELETE.RD_JOBS.rd-std")
            await bus.submit("hi", "urgent", cls="hi")
            await bus.submit("hi", "one")
            assert (await bus.result("urgent")).status == "ok", "the others go on"
            request = {"stream_name": "RD_JOBS", "action": "create", "config": config}
            await bus.api(f"CONSUMER.CREATE.RD_JOBS.rd-std.{config['filter_subject']}", request)
            assert (await bus.result("one")).status == "ok"


async def test_streams_that_are_missing_are_named_with_the_fix(tmp_path: Path) -> None:
    async with durable(tmp_path) as bus:
        with pytest.raises(IngressError, match=r"no stream RD_JOBS.*runnerd bus init"):
            async with bus.daemon(streams="verify"):
                pass
        async with bus.daemon(streams="auto"):
            assert "error" in await bus.api("STREAM.INFO.RD_JOBS"), "nothing is made on a server that is not ours"


async def test_a_server_without_jetstream_is_named(tmp_path: Path) -> None:
    async with durable(tmp_path, jetstream=False) as bus:
        with pytest.raises(IngressError, match="enable it on the server"):
            async with bus.daemon(streams="ensure"):
                pass
        async with bus.daemon(streams="auto"):
            pass


async def test_what_differs_is_told_and_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with durable(tmp_path) as bus:
        async with bus.daemon():
            config = (await bus.api("STREAM.INFO.RD_EVT"))["config"]
        await bus.api("STREAM.UPDATE.RD_EVT", {**config, "max_bytes": 1 << 20})
        async with bus.daemon(ack_wait_s=3.0):
            await bus.submit("hi", "one")
            await bus.result("one")
        told = capsys.readouterr().out
        assert "stream RD_EVT: max_bytes is 1048576, not 268435456" in told
        assert "consumer rd-std of stream RD_JOBS: ack_wait is 2 s, not 3 s" in told
        assert (await bus.api("STREAM.INFO.RD_EVT"))["config"]["max_bytes"] == 1 << 20
        assert (await bus.api("CONSUMER.INFO.RD_JOBS.rd-std"))["config"]["ack_wait"] == 2_000_000_000


async def test_a_result_that_no_message_takes_is_stored_and_says_where(tmp_path: Path) -> None:
    async with durable(tmp_path, max_payload=64 << 10) as bus, bus.daemon() as daemon, inbox(bus.client) as (to, answers):
        await bus.submit("print 200000", "one", rd_reply_to=to)
        result = await bus.result("one")
        await bus.drained()
        await wait_until(lambda: len(answers) == 1, "it is answered")
        assert decode_result(answers[0].data) == result
        assert (result.status, result.stdout_truncated, len(result.stdout)) == ("ok", True, 4096)
        assert "the rest of it is in session" in result.warnings[0]
        assert daemon.sessions is not None
        stored = result.stored[0]
        _, chunks = await daemon.sessions.download(Owner(tenant="acme"), stored.session, stored.id)
        assert (stored.name, b"".join([chunk async for chunk in chunks])) == ("stdout", b"x" * 200_000)

        await bus.submit("print 200000", "one", nats_msg_id="again", rd_reply_to=to)
        await wait_until(lambda: len(answers) == 2, "the repetition is answered")
        assert decode_result(answers[1].data) == result, "and nothing is stored twice"


async def test_files_that_no_message_takes_are_stored(tmp_path: Path) -> None:
    async with durable(tmp_path, max_payload=64 << 10) as bus, bus.daemon():
        await bus.submit("files 3 30000", "one")
        result = await bus.result("one")
        assert (result.files, [(each.name, each.size) for each in result.stored]) == ((), [(f"{i}.bin", 30_000) for i in range(3)])


async def test_messages_beyond_what_may_be_in_hand_go_back(tmp_path: Path) -> None:
    executor = Executor()
    async with durable(tmp_path) as bus, bus.daemon(executor, slots=50, in_hand=2):
        for number in range(6):
            await bus.submit("wait", "one", nats_msg_id=f"m{number}")
        await wait_until(lambda: executor.running.total() == 1, "it runs")
        stats = json.loads((await bus.client.request("$SRV.STATS.runnerd", b"", timeout=10)).data)
        assert stats["endpoints"][0]["data"]["durable"]["in_hand"] <= 2
        executor.go.set()
        await bus.drained()
        assert executor.starts == {"one": 1}


async def test_a_store_that_fails_gives_jobs_back_until_it_does_not(tmp_path: Path) -> None:
    async with durable(tmp_path) as bus:
        frozen: Any = Frozen(bus.kv)
        bus.kv = frozen
        async with bus.daemon(executor := Executor(), flags=("scheduler.record_patience_s=0.05",)):
            frozen.frozen = True
            for number in range(10):
                await bus.submit("hi", f"job{number}")
            async with asyncio.timeout(30):
                while await bus.deliveries() < 5:
                    await asyncio.sleep(0.02)
            assert not executor.starts
            frozen.frozen = False
            await bus.drained()
        assert await bus.messages("RD_RES") == 10
        assert executor.starts.total() == 10
