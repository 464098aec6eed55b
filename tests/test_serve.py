"""`runnerd serve` as people run it: a process, its ports, its signals, its words."""

import asyncio
import json
import signal
from pathlib import Path

import nats
import pytest

from runnerd import Result, decode_result
from serving import Serving, serving

PROCESS = ("isolation.minimum=process", "languages.py.warm=1", "languages.js.warm=0", "scheduler.slots=2")
"""Whatever isolation can be had: what is asked here is not what the kernel can do."""


async def run(daemon: Serving, code: str, lang: str = "py") -> Result:
    client = await nats.connect(daemon.said["nats"])
    try:
        answer = await client.request(f"rd.v1.run.acme.{lang}", json.dumps({"code": code}).encode(), timeout=60)
        return decode_result(answer.data)
    finally:
        await client.close()


def log_lines(state: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (state / "log").read_text().splitlines()]


async def test_says_what_listens_where_and_runs_a_job(tmp_path: Path) -> None:
    async with serving(tmp_path, *PROCESS) as daemon:
        assert daemon.said["nats"].startswith("nats://127.0.0.1:")
        assert daemon.said["http"].startswith("http://127.0.0.1:")
        assert "API key, shown only now: " in daemon.said["http"]
        assert "jobs need process at least" in daemon.said["isolation"]
        assert "py" in daemon.said["languages"].split()
        assert daemon.said["state"] == str(tmp_path / "state")

        result = await run(daemon, "print('a secret')")
        assert (result.status, result.stdout) == ("ok", "a secret\n")
        code, rest = await daemon.stop()
        assert code == 0
        assert rest.splitlines()[-1] == "Stopped."
    (line,) = [line for line in log_lines(tmp_path) if line["event"] == "job ended"]
    assert (line["job"], line["tenant"], line["lang"], line["status"]) == (result.id, "acme", "py", "ok")
    assert "a secret" not in (tmp_path / "log").read_text()


async def test_finishes_what_is_in_hand(tmp_path: Path) -> None:
    started = "import time; open('/tmp/x', 'w'); time.sleep(1.5); print('done')"
    async with serving(tmp_path, *PROCESS) as daemon, asyncio.TaskGroup() as tasks:
        job = tasks.create_task(run(daemon, started))
        await running(daemon)
        assert (await daemon.stop(signal.SIGINT))[0] == 0
        assert (await job).stdout == "done\n"


async def test_second_signal_gives_back_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path, *PROCESS, "scheduler.grace_s=3600") as daemon, asyncio.TaskGroup() as tasks:
        job = tasks.create_task(interrupted(daemon))
        await running(daemon)
        daemon.process.send_signal(signal.SIGTERM)
        await daemon.until("Stopping:")
        code, rest = await daemon.stop()
        assert code == 0
        assert rest.splitlines()[-1] == "Stopped."
        assert await job


async def interrupted(daemon: Serving) -> bool:
    """Whether a long job ended in anything but a result of its own."""
    client = await nats.connect(daemon.said["nats"], allow_reconnect=False)
    try:
        answer = await client.request("rd.v1.run.acme.py", b'{"code": "import time; time.sleep(20)"}', timeout=60)
        return not answer.data or decode_result(answer.data).status != "ok"
    except Exception:  # noqa: BLE001 - the server went away with the daemon
        return True
    finally:
        await client.close()


async def running(daemon: Serving) -> None:
    """Wait until one job runs."""
    client = await nats.connect(daemon.said["nats"])
    try:
        async with asyncio.timeout(60):
            while True:
                stats = await client.request("$SRV.STATS", b"", timeout=10)
                if json.loads(stats.data)["endpoints"][0]["data"]["free"] == 1:
                    return
                await asyncio.sleep(0.02)
    finally:
        await client.close()


@pytest.mark.parametrize(
    ("flag", "code", "text"),
    [
        ("limits.wal_s=3", 2, "runnerd: --set limits.wal_s: is no setting: did you mean limits.wall_s?"),
        ("local.python=/nonexistent", 1, "runnerd: local.python: /nonexistent is no program that can be run"),
        ("ingress.nats.listen=192.0.2.1:0", 1, "runnerd: ingress.nats.listen: 192.0.2.1 can be reached from elsewhere"),
        ("log.file=/proc/x/log", 2, "runnerd: log.file: /proc/x/log can't be written"),
    ],
)
async def test_errors_are_told_as_text(tmp_path: Path, flag: str, code: int, text: str) -> None:
    with pytest.raises(AssertionError, match="it ended before"):
        async with serving(tmp_path, *PROCESS, flag) as daemon:
            await daemon.ended()
    said = (tmp_path / "stderr").read_text()
    assert text in said
    assert "Traceback" not in said
