"""Bodies that are larger than a message, and come in parts."""

import asyncio
import hashlib
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fake_executor import wait_until
from jetstream import Durable, Executor, durable, inbox, process
from runnerd import File, Job, decode_result, encode
from runnerd.__main__ import app
from runnerd.client import connect_jetstream

BODY = encode(Job(code="hi", files=(File(name="a.bin", data=b"x" * 200_000),)))
SMALL: dict[str, Any] = {"max_payload": 64 << 10}
"""Of a server that takes little at once, so that few bytes need parts."""


async def test_a_body_in_parts_runs_once_and_its_parts_are_gone_then(tmp_path: Path) -> None:
    executor = Executor()
    async with durable(tmp_path, **SMALL) as bus, bus.daemon(executor), inbox(bus.client) as (to, answers):
        headers = await bus.store(BODY, "big")
        await bus.send("rd.v1.job.acme.std.py.big", b"", {**headers, "Rd-Reply-To": to})
        result = await bus.result("big")
        assert (result.status, result.stdout) == ("ok", "hi\n")
        assert executor.ran[0].files[0].content == b"x" * 200_000
        await wait_for_none(bus)
        await bus.send("rd.v1.job.acme.std.py.big", b"", {**headers, "Rd-Reply-To": to, "Nats-Msg-Id": "again"})
        await wait_until(lambda: len(answers) == 2, "the repetition, whose parts are gone, is answered")
        assert decode_result(answers[1].data) == result
        await bus.store(BODY, "big")
        await bus.send("rd.v1.job.acme.std.py.big", b"", {**headers, "Rd-Reply-To": to, "Nats-Msg-Id": "with parts"})
        await wait_until(lambda: len(answers) == 3, "the whole repetition is answered")
        assert decode_result(answers[2].data) == result
        assert executor.starts == {"big": 1}
        await wait_for_none(bus)


async def wait_for_none(bus: Durable) -> None:
    """Wait until no part is left."""
    async with asyncio.timeout(30):
        while await bus.messages("RD_PART"):
            await asyncio.sleep(0.02)


REFUSED: dict[str, tuple[dict[str, str], bytes, str]] = {
    "a body besides": ({}, b"{}", "body: must be empty"),
    "no number": ({"Rd-Parts": "some"}, b"", "Rd-Parts: 'some' must be a whole number"),
    "too many": ({"Rd-Parts": "5000"}, b"", "Rd-Parts: 5000, and at most 1024"),
    "no size": ({"Rd-Body-Bytes": ""}, b"", "Rd-Body-Bytes: '' must be a whole number"),
    "too large": ({"Rd-Body-Bytes": "1000001"}, b"", "Rd-Body-Bytes: 1000001 bytes, and at most 1000000"),
    "another size": ({"Rd-Body-Bytes": "7"}, b"", "Rd-Body-Bytes: 7, but the 6 parts together have more"),
    "a size too large": ({"Rd-Body-Bytes": "900000"}, b"", f"Rd-Body-Bytes: 900000, but the 6 parts together have {len(BODY)}"),
    "one missing": ({"Rd-Parts": "7"}, b"", "part 7 of 7 is not stored under rd.v1.part.acme.bad.7"),
    "another body": ({"Rd-Body-Sha256": "0" * 64}, b"", f"have {hashlib.sha256(BODY).hexdigest()}"),
    "no digest": ({"Rd-Body-Sha256": "abc"}, b"", "Rd-Body-Sha256: 'abc' must be 64 hex digits"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_is_wrong_with_parts_is_told_and_nothing_runs(tmp_path: Path, case: str) -> None:
    changes, body, reason = REFUSED[case]
    executor = Executor()
    async with durable(tmp_path, **SMALL) as bus, bus.daemon(executor, body_bytes=1_000_000):
        await bus.store(BODY, "victim", tenant="other")
        headers = await bus.store(BODY, "bad") | changes
        await bus.send("rd.v1.job.acme.std.py.bad", body, headers)
        result = await bus.result("bad")
        assert (result.status, executor.starts) == ("rejected", {})
        assert reason in result.reason
        # mended, under the same name, it runs
        await bus.send("rd.v1.job.acme.std.py.bad", b"", await bus.store(BODY, "bad") | {"Nats-Msg-Id": "mended"})
        async with asyncio.timeout(30):
            while (await bus.result("bad")).status != "ok":
                await asyncio.sleep(0.02)


async def test_bodies_that_have_no_room_beside_others_wait(tmp_path: Path) -> None:
    executor = Executor()
    async with durable(tmp_path, **SMALL) as bus, bus.daemon(executor, bodies_bytes=600_000):
        for number in range(5):
            body = encode(Job(code="sleep 0.2", files=(File(name="a.bin", data=b"x" * 200_000),)))
            headers = await bus.store(body, f"big-{number}")
            await bus.send(f"rd.v1.job.acme.std.py.big-{number}", b"", headers)
        most = 0
        async with asyncio.timeout(60):
            while await bus.messages("RD_JOBS"):
                most = max(most, sum(executor.running.values()))
        assert most == 2
        for number in range(5):
            assert (await bus.result(f"big-{number}")).status == "ok"
        await bus.drained()


async def test_a_killed_daemon_leaves_its_job_with_all_its_parts_to_the_next(tmp_path: Path) -> None:
    flags = ("store.kv.kind=disk", "scheduler.lease_s=1")
    body = encode(Job(code="sleep 2", files=(File(name="a.bin", data=b"x" * 200_000),)))
    async with durable(tmp_path, **SMALL) as bus:
        async with process(bus, "daemon", *flags) as first:
            await bus.send("rd.v1.job.acme.std.py.big", b"", await bus.store(body, "big"))
            async with asyncio.timeout(30):
                while (await bus.control("big", "status")).get("state") != "running":
                    await asyncio.sleep(0.02)
            await first.end(signal.SIGKILL)
        assert await bus.messages("RD_PART") == 6
        async with process(bus, "daemon", *flags):
            result = await bus.result("big")
            assert (result.status, result.starts) == ("ok", 2)
            await wait_for_none(bus)


async def test_a_dead_letter_whose_body_came_in_parts_can_be_submitted_again(tmp_path: Path) -> None:
    executor = Executor()
    async with durable(tmp_path, **SMALL) as bus, bus.daemon(executor):
        body = encode(Job(code="lose 3", files=(File(name="a.bin", data=b"x" * 200_000),)))
        await bus.send("rd.v1.job.acme.std.py.doomed", b"", await bus.store(body, "doomed"))
        assert (await bus.result("doomed")).status == "dead"
        await bus.drained()
        letter = await bus.stored("rd.v1.dead.acme.std.py", "RD_DEAD")
        assert letter is not None
        assert await bus.messages("RD_PART") == 6
        place = (f"ingress.nats.url={bus.server.url}", "ingress.http.enabled=no", f"state_dir={tmp_path}/s")
        flags = [word for each in place for word in ("--set", each)]
        shown = await asyncio.to_thread(CliRunner().invoke, app, ["dlq", "show", "nats/1", "--json", *flags])
        assert json.loads(shown.output)["job"]["files"][0]["name"] == "a.bin"
        replayed = await asyncio.to_thread(CliRunner().invoke, app, ["dlq", "replay", "nats/1", *flags])
        assert replayed.exit_code == 0, replayed.output
        await wait_until(lambda: len(executor.starts) == 2, "it was started again")
        await bus.drained()
        assert executor.ran[-1].files[0].content == b"x" * 200_000
        assert await bus.stored("rd.v1.part.acme.doomed.*", "RD_PART") is None, "those of the former letter are gone"
        assert await bus.stored("rd.v1.part.acme.*.*", "RD_PART") is not None, "it has died again, and has its own"


async def test_the_client_sends_in_parts_what_is_larger_than_a_message(tmp_path: Path) -> None:
    executor = Executor()
    async with durable(tmp_path, **SMALL) as bus, bus.daemon(executor):
        job = Job(lang="py", tenant="acme", code="hi", files=(File(name="a.bin", data=bytes(range(256)) * 4000),))
        async with connect_jetstream(bus.server.url, tenant="acme") as client:
            result = await client.run(job)
            assert (result.status, executor.ran[0].files) == ("ok", job.files)
            too_large = Job(lang="py", code="hi", files=(File(name="a.bin", data=bytes(65 << 20)),))
            result = await client.run(too_large)
            assert result.status == "rejected"
            assert "at most 67108864" in result.reason
        await wait_for_none(bus)
