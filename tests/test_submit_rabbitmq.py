"""`runnerd submit`, `result`, `tail` and `cancel` on RabbitMQ, as programs: a real broker, also one that is killed meanwhile."""

import asyncio
import json
from pathlib import Path

import pytest

from command import Ended, ended, runnerd, said, started
from nats_fixture import wait_until
from rabbitmq_bench import Bench, bench
from rabbitmq_fixture import Broker


def arguments(b: Bench, *words: str) -> tuple[str, ...]:
    return (*words, "--server", b.url, "--tenant", "acme")


async def run(b: Bench, *words: str, code: str = "") -> Ended:
    return await runnerd(*arguments(b, *words), stdin=code.encode())


async def listened_to(b: Bench, exchange: str) -> None:
    """Wait until a queue is bound to an exchange."""
    source = f'rabbit_misc:r(<<"{b.vhost}">>, exchange, <<"{exchange}">>)'
    async with asyncio.timeout(60):
        while await b.node.tell(f"length(rabbit_binding:list_for_source({source}))") == "0":
            await asyncio.sleep(0.02)


async def test_a_job_and_its_result_now_and_later(rabbitmq: Broker) -> None:
    async with bench(rabbitmq) as b:
        assert await run(b, "submit", "-", "--id", "one", code="exit 3") == Ended(0, "one\n", "")
        found = await asyncio.gather(
            run(b, "result", "one", "--wait"),
            run(b, "tail", "one"),
            run(b, "submit", "-", "--wait", "--class", "hi", code="echo hi"),
            run(b, "result", "typo"),
        )
        assert [each.code for each in found] == [3, 3, 0, 123]
        assert found[2].out == "hi"
        assert "typo: no daemon has seen it; it may wait in a queue\nrunnerd: --wait waits" in found[3].err


async def test_a_job_is_cancelled_where_it_runs_and_before_it_comes(rabbitmq: Broker) -> None:
    async with bench(rabbitmq) as b:
        await run(b, "submit", "-", "--id", "one", code="wait")
        await wait_until(lambda: b.services.running, "it runs")
        assert await run(b, "cancel", "one") == Ended(0, "one: cancelled: it was running\n", "")
        assert await run(b, "cancel", "one") == Ended(0, "one: cancelled: it had been before\n", "")


async def test_output_is_followed_from_now_on(rabbitmq: Broker) -> None:
    async with bench(rabbitmq, slots=1) as b:
        await run(b, "submit", "-", "--id", "first", code="wait")
        await wait_until(lambda: b.services.running, "it runs")
        await run(b, "submit", "-", "--id", "second", code="stream 2 5")
        tailing = await started(*arguments(b, "tail", "second", "--json"))
        await listened_to(b, "rd.events")
        b.services.release()
        followed = await ended(tailing)
    events = [json.loads(line) for line in followed.out.splitlines()]
    assert (followed.code, [event["type"] for event in events]) == (0, ["started", "output", "output", "result"])


@pytest.mark.slow  # the broker takes its time to start
async def test_a_killed_broker_comes_back_and_all_go_on(rabbitmq: Broker) -> None:
    async with bench(rabbitmq) as b:
        waiting = await started(*arguments(b, "submit", "-", "--id", "one", "--wait", "--patience", "120"))
        assert waiting.stdin is not None
        waiting.stdin.write(b"wait")
        waiting.stdin.close()
        await said(waiting, "job one")
        await wait_until(lambda: b.services.running, "it runs")
        tailing = await started(*arguments(b, "tail", "one", "--patience", "120"))
        await said(tailing, "runnerd: one")
        gone = await started(*arguments(b, "result", "one", "--wait", "--patience", "0.1"))
        await said(gone, "waiting for its result")
        await listened_to(b, "rd.events")
        await rabbitmq.kill()
        told = await ended(gone)
        await rabbitmq.start()
        async with asyncio.TaskGroup() as tasks:
            both = [tasks.create_task(ended(each)) for each in (waiting, tailing)]
            while not all(each.done() for each in both):  # this daemon has no records, and runs what is sent again
                b.services.release()
                await asyncio.sleep(0.05)
        found = [each.result() for each in both]
    assert [each.code for each in found] == [0, 0], found
    assert told.code == 125
    assert "the job goes on: `runnerd result one --wait --tenant acme --server 'amqp://…@127.0.0.1:" in told.err


async def test_what_is_missing_is_told(rabbitmq: Broker, tmp_path: Path) -> None:
    async with rabbitmq.vhost() as vhost:
        server = ("--server", rabbitmq.url(vhost), "--patience", "0.1")
        found = await asyncio.gather(
            runnerd("submit", "-", *server, stdin=b"echo hi"),
            runnerd("tail", "x", *server),
        )
    for each in found:
        assert (each.code, each.out) == (125, "")
        assert "no exchange 'rd." in each.err
        assert "`runnerd bus init`" in each.err
