"""Pods that the daemon keeps for a session, or for a tenant. On a real cluster."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec import structs

import cluster_fixture
from cluster_fixture import LIMITS, START_S, until
from fake_executor import wait_until
from runnerd import Limits, Result
from runnerd.executors.pods.cluster import PODS, Cluster
from runnerd.executors.pods.executor import open_pods
from runnerd.pool import PoolSettings
from runnerd.scheduler import Scheduler, SchedulerSettings, open_scheduler
from scheduled_pods import PY, job, names, result
from stores import store

pytestmark = pytest.mark.pods
PATIENT = Limits(wall_s=20)


@asynccontextmanager
async def kept_in(config: str, cluster: Cluster, reuse: str, **pool: Any) -> AsyncIterator[Scheduler]:
    languages = {"py": structs.replace(PY, warm=1, reuse=reuse)}
    opening = open_pods(cluster_fixture.settings(config, cluster.namespace), LIMITS, START_S)
    async with opening as executor, store("memory").open_kv() as kv, store("memory").open_blobs() as blobs:
        settings = SchedulerSettings(slots=4, queue_ttl_s=600)
        async with open_scheduler(executor, languages, kv, LIMITS, settings, PoolSettings(**pool), blobs) as scheduler:
            yield scheduler


def served(end: Result, reuse: str) -> int:
    assert (end.status, end.sandbox and end.sandbox.reuse) == ("ok", reuse), end
    assert end.sandbox is not None
    return end.sandbox.served


async def run(scheduler: Scheduler, code: str, **fields: Any) -> Result:
    return await result(scheduler, job(code, limits=PATIENT, **fields))


async def test_a_session_keeps_its_pod_until_that_is_lost_and_loses_nothing_then(config: str, cluster: Cluster) -> None:
    async with kept_in(config, cluster, "session") as scheduler:
        first = await run(scheduler, "import threading\nx, lock = 1, threading.Lock()\nopen('a', 'w').write('a')", session="")
        assert served(first, "session") == 0
        second = await run(scheduler, "x += 1; print(x, lock.locked(), open('a').read())", session=first.session)
        assert (served(second, "session"), second.stdout) == (1, "2 False a\n")
        other = await run(scheduler, "import os; print('x' in globals(), os.listdir())", session="")
        assert (served(other, "session"), other.stdout) == (0, "False ['main.py']\n")

        for pod in names((await cluster.list(PODS))[0]):
            await cluster.delete(PODS, pod, gracePeriodSeconds=0)
        third = await run(scheduler, "x += 1; print(x, open('a').read(), 'lock' in globals())", session=first.session, retry=False)
        assert (served(third, "session"), third.stdout) == (0, "3 a False\n")


async def test_a_pod_that_is_idle_for_long_is_removed(config: str, cluster: Cluster) -> None:
    async with kept_in(config, cluster, "session", kept_idle_s=1.0) as scheduler:
        await run(scheduler, "x = 1", session="")
        pool = scheduler._pools["py"]
        await wait_until(lambda: not pool.policy.kept, "it ends")
        await until(cluster, PODS, "", lambda pods: len(pods) == 1)


async def test_a_tenant_keeps_its_pods_and_finds_nothing_in_them(config: str, cluster: Cluster) -> None:
    leave = "import os, subprocess\nx = 1\nfor path in ('/mnt/data/left', '/tmp/left', '/dev/shm/left'): open(path, 'w').write('left')\n"
    leave += "subprocess.Popen(['sleep', '60'], start_new_session=True)\nprint(os.uname().nodename)"
    look = "import os\nprint('x' in globals(), [os.listdir(path) for path in ('/mnt/data', '/tmp', '/dev/shm')],"
    look += " len([name for name in os.listdir('/proc') if name.isdigit()]))"
    async with kept_in(config, cluster, "tenant") as scheduler:
        pool = scheduler._pools["py"]
        for number in range(3):
            assert served(await run(scheduler, leave), "tenant") == 2 * number
            await wait_until(lambda: len(pool.policy.kept) == 1, "it is kept")
            clean = await run(scheduler, look)
            assert (served(clean, "tenant"), clean.stdout) == (2 * number + 1, "False [['main.py'], [], []] 3\n")
        assert served(await run(scheduler, look, tenant="else"), "tenant") == 0, "another tenant never gets it"
        late = await result(scheduler, job("while True: pass", limits=Limits(wall_s=0.5)))
        assert late.status == "timeout"
        assert served(await run(scheduler, look), "tenant") == 7, "nothing of it can be left, however it ended"


async def test_jobs_at_once_of_one_tenant_share_no_pod(config: str, cluster: Cluster) -> None:
    async with kept_in(config, cluster, "tenant") as scheduler:
        code = "import os, time\nopen('/tmp/mine', 'x').close()\ntime.sleep(0.5)\nprint(os.listdir('/tmp'))"
        for _ in range(2):
            ends = await asyncio.gather(*(run(scheduler, code) for _ in range(3)))
            assert [end.stdout for end in ends] == ["['mine']\n"] * 3
        assert sum(served(end, "tenant") > 0 for end in ends) > 0
