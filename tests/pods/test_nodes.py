"""What nodes do to pods: evict them, and hold them to limits of their own."""

import msgspec
import pytest

import cluster_fixture
from cluster_fixture import LIMITS, START_S, until
from conftest import bundled_languages
from runnerd import Result
from runnerd.commands.check_pods import counted
from runnerd.executors.pods.cluster import PODS, Cluster, ClusterError, Resource
from runnerd.executors.pods.executor import PodExecutor, open_pods
from runnerd.executors.pods.pids import MOST, process_limit
from scheduled_pods import first_output, job, jobs_in, result, standing

pytestmark = pytest.mark.pods
PY = bundled_languages()["py"]
NODES = Resource("v1", "nodes")
SLEEP = "import time\nprint('on', flush=True)\ntime.sleep(2)\nprint('over')"


async def evict(cluster: Cluster, name: str) -> None:
    """As a node is drained: by the Eviction API, of whichever version the cluster has."""
    for version in ("policy/v1", "policy/v1beta1"):
        eviction = {"apiVersion": version, "kind": "Eviction", "metadata": {"name": name}}
        try:
            await cluster.create(Resource("v1", f"pods/{name}/eviction"), eviction)
        except ClusterError as error:
            if error.code not in {400, 404}:
                raise
        else:
            return
    raise AssertionError("no version of the Eviction API")


def leased(executor: PodExecutor) -> str:
    """The name of the first pod, which the first job has."""
    return next(name for name, sighting in executor._sightings.items() if sighting.pod and name in standing([sighting.pod]))


async def test_a_leased_pod_that_is_evicted(config: str, cluster: Cluster) -> None:
    async with jobs_in(config, cluster) as (scheduler, executor):
        events = scheduler.submit(job(SLEEP, stream=True))
        await first_output(events)
        await evict(cluster, leased(executor))
        *_, last = [event async for event in events]
        assert isinstance(last, Result)
        assert (last.status, last.stdout, last.starts) == ("ok", "on\nover\n", 2), last.reason


async def test_a_warm_pod_that_is_evicted(config: str, cluster: Cluster) -> None:
    async with jobs_in(config, cluster) as (scheduler, _):
        (before,) = standing(await until(cluster, PODS, "", lambda pods: len(standing(pods)) == 1))
        await evict(cluster, before)
        await until(cluster, PODS, "", lambda pods: bool(standing(pods) - {before}))
        last = await result(scheduler, job("print('hi')"))
        assert (last.stdout, last.starts) == ("hi\n", 1)


async def test_a_job_that_writes_more_than_its_pod_may(config: str, cluster: Cluster) -> None:
    """The kubelet looks every ten seconds or so, and evicts the pod; that is the job's limit and no bad luck of its sandbox."""
    code = "import os, time\nopen('/tmp/big', 'wb').write(os.urandom(8 << 20))\nprint('on', flush=True)\ntime.sleep(120)"
    async with jobs_in(config, cluster, files="disk", tmp_bytes=1 << 20, limits=msgspec.structs.replace(LIMITS, wall_s=150)) as (
        scheduler,
        _,
    ):
        last = await result(scheduler, job(code))
        assert (last.status, last.limit, last.starts) == ("limit", "workspace_bytes", 1), last
        assert "Evicted" in last.reason
        assert (await result(scheduler, job("print('hi')"))).stdout == "hi\n"


async def test_how_many_processes_a_pod_may_have(config: str, cluster: Cluster) -> None:
    node = (await cluster.get(NODES, "", namespaced=False))["items"][0]["metadata"]["name"]
    told = (await cluster.get(NODES, f"{node}/proxy/configz", namespaced=False))["kubeletconfig"].get("podPidsLimit", -1)
    async with open_pods(cluster_fixture.settings(config, cluster.namespace), LIMITS, START_S) as executor:
        found = await process_limit(executor, PY)
    assert found is not None
    if 0 < told < MOST:
        assert told - 50 < found <= told
        assert counted(found).state == "ok"
    else:
        assert found == MOST


@pytest.mark.parametrize("found", [MOST, None])
def test_no_limit_is_no_good_news(found: int | None) -> None:
    assert counted(found).state == "note"
    assert "podPidsLimit" in counted(found).text
