"""The API server away for half a minute, killed or hanging: what is leased ends well, what is warm still serves, and all recovers."""

import asyncio
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from cluster_fixture import CLUSTER, until
from runnerd import Result
from runnerd.executors.pods.cluster import PODS, Cluster
from scheduled_pods import first_output, job, jobs_in, result, standing

pytestmark = [pytest.mark.pods, pytest.mark.slow, pytest.mark.timeout(600)]
STATE = Path(os.environ.get("K8S_STATE", "/var/lib/k8s-from-debian"))
AWAY_S = 30
LONG = "import time\nprint('on', flush=True)\ntime.sleep(10)\nprint('over')"


class ApiServer:
    """That of the cluster in tests/cluster."""

    async def stop(self, how: signal.Signals) -> None:
        os.kill(int((STATE / "apiserver.pid").read_text()), how)

    async def start(self) -> None:
        """Have it go on where it was stopped, and start it where it has ended."""
        with suppress(ProcessLookupError):
            os.kill(int((STATE / "apiserver.pid").read_text()), signal.SIGCONT)
        await asyncio.to_thread(subprocess.run, [CLUSTER / "up"], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture
def api(config: str) -> ApiServer:
    if Path(config) != STATE / "admin.kubeconfig":
        pytest.skip("the API server of a cluster that is not ours is not ours to stop")
    return ApiServer()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hanging"])
async def test_half_a_minute_without_the_api(config: str, cluster: Cluster, api: ApiServer, how: signal.Signals) -> None:
    async with jobs_in(config, cluster, warm=3, api_timeout_s=5) as (scheduler, executor), asyncio.TaskGroup() as tasks:
        pool = scheduler._pools["py"]
        await until(cluster, PODS, "", lambda pods: len(standing(pods)) == 3)
        async with asyncio.timeout(60):
            while len(pool.policy.warm) < 3:
                await asyncio.sleep(0.05)
        leased = scheduler.submit(job(LONG, stream=True))
        await first_output(leased)
        back = asyncio.get_running_loop().time() + AWAY_S
        try:
            await api.stop(how)
            warm = [await result(scheduler, job(f"print({number})")) for number in range(2)]
            *_, last = [event async for event in leased]
            late = tasks.create_task(result(scheduler, job("print('late')")))
            await asyncio.sleep(back - asyncio.get_running_loop().time())  # it is away for so long, whatever we see of it
        finally:
            await api.start()
        assert [(one.stdout, one.starts, one.sandbox and one.sandbox.warm) for one in warm] == [("0\n", 1, True), ("1\n", 1, True)]
        assert isinstance(last, Result)
        assert (last.status, last.stdout, last.starts) == ("ok", "on\nover\n", 1), last.reason
        async with asyncio.timeout(120):
            assert (await late).stdout == "late\n"
            while executor.description["problem"] or executor.description["removing"] or len(pool.policy.warm) < 3:
                await asyncio.sleep(0.05)
        assert len(standing((await cluster.list(PODS))[0])) == 3
