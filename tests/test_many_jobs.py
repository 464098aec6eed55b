"""Thousands of jobs of every language over NATS: each has its own result, and afterwards nothing is left of them (T-51)."""

import asyncio
import os
import random
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import NamedTuple

import pytest
from nats.aio.client import Client

from bench.leftovers import Leftovers
from nats_fixture import nats_client
from runnerd import Job, Language, decode_result, encode
from runnerd.config import load_config
from runnerd.daemon import open_daemon
from runnerd.executors.local import LocalExecutor, LocalSettings, open_local
from runnerd.plugins import find_plugins
from toolchain import require

pytestmark = pytest.mark.slow

PROGRAMS = Path(__file__).parent / "programs"
PYTHON = int(os.environ.get("RUNNERD_TEST_PYTHON_JOBS", "5000"))
OTHERS = int(os.environ.get("RUNNERD_TEST_OTHER_JOBS", "200"))
"""Jobs of each other language."""
SUBMITTERS = 8
SETTLED_S = 30
QUICK = ("py", "bash")
ROUNDS = 10
LONG = f"import time; time.sleep({min(60, PYTHON / 100)}); print('still here')"
"""Lives while thousands of others come and go (T-64)."""
FLAGS = (
    "local.level=strong",
    f"scheduler.slots={SUBMITTERS}",
    "ingress.nats.listen=127.0.0.1:0",
    "ingress.http.enabled=false",
    "store.kv.kind=memory",
    "store.blob.kind=memory",
    "limits.wall_s=120",
    "limits.cpu_s=120",
)


@pytest.fixture(scope="module")
def every_language(languages: dict[str, Language]) -> dict[str, Language]:
    for language in languages.values():
        require(language)
    return languages


class Asked(NamedTuple):
    """A job that prints its argument."""

    tenant: str
    lang: str
    argument: str


def first_jobs(langs: Iterable[str], round_: int) -> list[Asked]:
    """Each of a tenant of its own: those get cells that nobody has used yet, as long as there are any."""
    return [Asked(f"t{round_}-{number}", lang, "first") for number, lang in enumerate(langs)]


def all_jobs(languages: dict[str, Language]) -> list[Asked]:
    """In an order that mixes languages."""
    jobs = [Asked("many", code, f"{code}-{number}") for code in languages for number in range(PYTHON if code == "py" else OTHERS)]
    random.Random(1).shuffle(jobs)
    return jobs


def program(language: Language) -> str:
    """Prints its arguments, a line each."""
    (path,) = (PROGRAMS / language.code).glob("args.*")
    return path.read_text()


async def submitter(client: Client, jobs: Iterator[Asked], programs: dict[str, str], wrong: list[str]) -> None:
    """Submit one job after the other; what is no right result goes to `wrong`."""
    for tenant, lang, argument in jobs:
        body = encode(Job(code=programs[lang], args=(argument,)))
        message = await client.request(f"rd.v1.run.{tenant}.{lang}", body, timeout=600)
        result = decode_result(message.data)
        if (result.status, result.stdout) != ("ok", argument + "\n"):
            wrong.append(f"{lang} {argument}: {result!r}"[:1000])


async def idle(state: Path, wanted: Leftovers | None = None) -> tuple[Leftovers, int]:
    """What the daemon holds, and how many tasks it has, once nothing changes any more, or once it is no more than `wanted`."""
    deadline = time.monotonic() + SETTLED_S
    before, same = None, 0
    while True:
        now = Leftovers.count(os.getpid(), state)
        same = same + 1 if before is not None and not now.grown(before) and not before.grown(now) else 0
        if (wanted is not None and not now.grown(wanted)) or (wanted is None and same == 10) or time.monotonic() > deadline:
            return now, len(asyncio.all_tasks())
        before = now
        await asyncio.sleep(0.1)


@pytest.mark.timeout(1800)
@pytest.mark.skipif(os.geteuid() != 0, reason="level strong needs root")
async def test_every_job_is_right_and_nothing_is_left(every_language: dict[str, Language], tmp_path: Path) -> None:
    plugins = find_plugins()
    cold = [f"languages.{code}.warm=0" for code in every_language if code != "py"]  # else cells wait in their pools that no job has used
    settings = load_config(plugins, flags=(*FLAGS, *cold, f"state_dir={tmp_path}/state"), environ={}, directory=tmp_path).settings
    programs = {code: program(language) for code, language in every_language.items()}
    wrong: list[str] = []

    def few_cells(local: LocalSettings, slots: int, given: Iterable[Language]) -> AbstractAsyncContextManager[LocalExecutor]:
        """So few that eight submitters and the warm sandboxes have them all made at once."""
        return open_local(local, slots - SUBMITTERS, given)

    async with open_daemon(settings, plugins, open_executor=few_cells) as daemon, nats_client(daemon.addresses["nats"]) as client:

        async def submit(jobs: list[Asked]) -> None:
            left = iter(jobs)
            async with asyncio.TaskGroup() as tasks:
                for _ in range(SUBMITTERS):
                    tasks.create_task(submitter(client, left, programs, wrong))

        await submit(first_jobs(every_language, 0))
        before, tasks = await idle(tmp_path)
        for round_ in range(1, ROUNDS):  # until every cell has run a job, and has all that it opens at its first
            await submit(first_jobs(QUICK * 20, round_))
            earlier, (before, tasks) = before, await idle(tmp_path)
            if not before.grown(earlier):
                break
        long = asyncio.create_task(client.request("rd.v1.run.long.py", encode(Job(code=LONG)), timeout=600))
        await submit(all_jobs(every_language))
        assert decode_result((await long).data).stdout == "still here\n", "a cell was given away under a job that took long"
        assert wrong == [], f"{len(wrong)} jobs went wrong: {wrong[:3]}"
        after, tasks_after = await idle(tmp_path, before)
    assert after.grown(before) == {}
    assert tasks_after <= tasks
