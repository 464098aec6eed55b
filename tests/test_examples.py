"""The examples that use no library of ours, as their reader runs them: a real server, real daemons, the packages that they name."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from jetstream import Durable, Executor, durable
from nats_fixture import wait_until
from runnerd import Language
from toolchain import require

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="session")
def javascript(languages: dict[str, Language], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's directory, copied and with the packages that its lock file names."""
    require(languages["js"])
    directory = tmp_path_factory.mktemp("javascript") / "example"
    shutil.copytree(EXAMPLES / "nats_javascript", directory, ignore=shutil.ignore_patterns("node_modules"))
    install = ["npm", "ci", "--prefer-offline", "--no-fund", "--no-audit"]
    ended = subprocess.run(install, cwd=directory, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return directory


class Example:
    """One example, run for a server."""

    def __init__(self, argv: Sequence[str | Path], bus: Durable) -> None:
        self._argv = argv
        self._environ = {"PATH": os.environ["PATH"], "NATS_URL": bus.server.url}

    async def start(self, *words: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(*self._argv, *words, env=self._environ, stdout=pipe, stderr=pipe)

    async def __call__(self, *words: str) -> tuple[int | None, str]:
        """Exit code and what it said, errors behind the rest."""
        process = await self.start(*words)
        out, err = await asyncio.wait_for(process.communicate(), 120)
        return process.returncode, (out + err).decode()


async def keeps_what_its_text_says(argv: Sequence[str | Path], directory: Path) -> None:
    """Output while a job runs, its result; a durable job, its result from who waited for it and from the stream; and nobody there."""
    async with durable(directory) as bus:
        example, executor = Example(argv, bus), Executor()
        code, said = await example("run", "hi")
        assert (code, "no daemon is there, or all are full" in said) == (1, True), said
        async with bus.daemon(executor):
            assert await example("run", "stream 3") == (0, 'output: 0\noutput: 1\noutput: 2\nok 0 "hi\\n"\n')
            code, job_id = await example("submit", "wait")
            assert code == 0, job_id
            job_id = job_id.strip()
            await wait_until(lambda: executor.running[job_id], "the durable job runs")
            waiting = await example.start("result", job_id)
            await listened_to(bus, f"rd.v1.res.default.{job_id}")
            executor.go.set()
            out, err = await asyncio.wait_for(waiting.communicate(), 120)
            assert out.decode() == 'ok 0 "hi\\n"\n', err.decode()
            await bus.drained()
            assert await example("result", job_id) == (0, 'ok 0 "hi\\n"\n')
            assert executor.starts[job_id] == 1


async def listened_to(bus: Durable, subject: str) -> None:
    """Wait until somebody has subscribed to a subject."""
    async with asyncio.timeout(60):
        while not any(subject in each.get("subscriptions_list", ()) for each in await bus.server.connections()):
            await asyncio.sleep(0.02)


async def test_plain_nats_py(tmp_path: Path) -> None:
    await keeps_what_its_text_says((sys.executable, EXAMPLES / "nats_py.py"), tmp_path)


@pytest.mark.slow  # it installs a package first
async def test_javascript(javascript: Path, tmp_path: Path) -> None:
    await keeps_what_its_text_says(("node", javascript / "jobs.js"), tmp_path)
