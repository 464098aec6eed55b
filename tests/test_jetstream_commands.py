"""`runnerd bus` and `runnerd dlq`, against a real server."""

import asyncio
import gzip
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fake_executor import wait_until
from jetstream import Durable, Executor, durable, inbox
from runnerd import Job, RunnerdError, decode_result, encode
from runnerd.__main__ import app


class Command:
    """The program, run for a server."""

    def __init__(self, bus: Durable) -> None:
        self.bus = bus

    async def __call__(self, *args: str) -> tuple[int, str]:
        """Exit code and what it said."""
        place = ("ingress.nats.url=" + self.bus.server.url, "ingress.http.enabled=no", f"state_dir={self.bus.directory}/s")
        flags = [word for each in place for word in ("--set", each)]
        ended = await asyncio.to_thread(CliRunner().invoke, app, [*args, *flags])
        if isinstance(ended.exception, RunnerdError):
            return 1, f"runnerd: {ended.exception}\n"
        return ended.exit_code, ended.output


@pytest.fixture
async def runnerd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Command]:
    monkeypatch.chdir(tmp_path)
    async with durable(tmp_path) as bus:
        yield Command(bus)


async def test_a_server_is_prepared_once_and_compared_after_that(runnerd: Command) -> None:
    code, said = await runnerd("bus", "verify")
    assert (code, "nats: missing: stream RD_JOBS" in said) == (1, True)
    code, said = await runnerd("bus", "init")
    assert code == 0
    assert [line for line in said.splitlines() if "made stream" in line] == [
        f"nats: made stream RD_{name}" for name in ("JOBS", "LATER", "PART", "RES", "EVT", "DEAD")
    ]
    assert await runnerd("bus", "verify") == (0, "nats: all is there, as the settings say\n")
    code, said = await runnerd("bus", "init", "--set", "ingress.nats.jetstream.dead_age_s=60")
    assert (code, said) == (0, "nats: differs: stream RD_DEAD: max_age is 2592000 s, not 60 s\n")
    assert (await runnerd("bus", "verify", "--set", "ingress.nats.jetstream.dead_age_s=60"))[0] == 1
    assert (await runnerd("bus", "init", "--set", "ingress.nats.jetstream.streams=off"))[1].startswith("No bus here")


async def test_dead_letters_are_listed_shown_and_run_again(runnerd: Command) -> None:
    bus = runnerd.bus
    async with bus.daemon(executor := Executor()), inbox(bus.client) as (to, answers):
        await bus.submit("lose 3", "first", rd_reply_to=to, rd_queue_ttl_ms="5000")
        compressed = {"Content-Encoding": "gzip", "Rd-Job-Id": "second"}
        await bus.send("rd.v1.job.acme.low.js", gzip.compress(encode(Job(code="lose"))), compressed)
        await bus.drained()
        code, said = await runnerd("dlq", "ls")
        assert code == 0
        assert re.fullmatch(r"nats/1 .* acme  py  first  3 starts  given up after 3 starts: .*\nnats/2 .* acme  js  second .*\n", said), (
            said
        )
        listed = json.loads((await runnerd("dlq", "ls", "--json", "--most", "1"))[1])
        assert [each["job_id"] for each in listed] == ["first"]
        shown = json.loads((await runnerd("dlq", "show", "nats/2", "--json"))[1])
        assert (shown["job"]["code"], shown["address"]) == ("lose", "rd.v1.job.acme.low.js")
        assert "first" in (await runnerd("dlq", "show", "nats/1"))[1]

        executor.starts["first"] = 0
        code, said = await runnerd("dlq", "replay", "nats/1")
        assert code == 0
        again = said.rpartition(" ")[2].strip()
        await wait_until(lambda: len(answers) == 2, "the job of the letter is answered too")
        assert decode_result(answers[1].data).id == again
        assert (await runnerd("dlq", "ls"))[1].startswith("nats/2")


async def test_a_letter_that_is_not_there_is_named(runnerd: Command) -> None:
    await runnerd("bus", "init")
    for name in ("nats/7", "nats/x", "other/1", "7"):
        assert await runnerd("dlq", "show", name) == (1, f"runnerd: {name}: there is no such dead letter: `runnerd dlq ls` lists them\n")


async def test_without_streams_the_fix_is_named(runnerd: Command) -> None:
    code, said = await runnerd("dlq", "ls")
    assert (code, "`runnerd bus init` makes it" in said) == (1, True)
