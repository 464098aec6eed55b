"""The agent of this machine as a process: its end is seen, and its silence."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from runnerd.executors.process import AgentProcess

BEATS = "while sleep 0.1; do echo; done"


@asynccontextmanager
async def agent(directory: Path, script: str) -> AsyncGenerator[AgentProcess]:
    """A shell that says that it is ready and goes on with the script, in a session of its own."""
    (directory / "agent").mkdir()
    said = f"""echo 'ready {{"level": "none"}}'; {script}"""
    process = await asyncio.create_subprocess_exec("sh", "-c", said, stdout=asyncio.subprocess.PIPE, start_new_session=True)
    agent = AgentProcess(process, directory / "agent" / "socket")
    try:
        await agent.ready()
        assert agent.description == {"level": "none"}
        yield agent
    finally:
        await agent.end()
        with suppress(ProcessLookupError):
            os.killpg(agent.pid, signal.SIGKILL)  # what the shell left
        assert not (directory / "agent").exists()


async def test_its_end_is_seen(tmp_path: Path) -> None:
    async with agent(tmp_path, "exit 3") as process, asyncio.timeout(10):
        await process.silent(100)
        assert process.exit_code == 3


async def test_one_that_says_nothing_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runnerd.executors.process.BEAT_S", 0.1)
    async with agent(tmp_path, "trap '' TERM; exec sleep 1000") as process, asyncio.timeout(10):
        await process.silent(0.2)
        assert process.exit_code == -signal.SIGKILL


async def test_one_that_shows_that_it_lives_is_left_alone(tmp_path: Path) -> None:
    async with agent(tmp_path, BEATS) as process:
        watch = asyncio.create_task(process.silent(1.0))
        done, _ = await asyncio.wait([watch], timeout=2.5)
        assert not done
        os.kill(process.pid, signal.SIGTERM)
        async with asyncio.timeout(10):
            await watch
        assert process.exit_code == -signal.SIGTERM


async def test_one_that_only_closes_its_output_is_left_alone(tmp_path: Path) -> None:
    async with agent(tmp_path, "exec >&-; sleep 1000") as process:
        watch = asyncio.create_task(process.silent(0.1))
        done, _ = await asyncio.wait([watch], timeout=0.5)
        assert not done
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch
