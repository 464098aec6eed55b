"""Durable jobs: in by a stream, and exactly one result out."""

from pathlib import Path

from fake_executor import wait_until
from jetstream import Executor, durable, inbox
from runnerd import decode_result


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
