"""Whole daemons over a cluster: what they serve, and what is left of one that was killed."""

import signal
from pathlib import Path

import pytest

import cluster_fixture
from cluster_fixture import until
from pod_daemons import flags
from runnerd import Job
from runnerd.client import connect
from runnerd.executors.pods.cluster import LEASES, PODS, Cluster, Object
from serving import Serving, serving

pytestmark = pytest.mark.pods


def running(count: int):
    """Whether so many pods run, of whatever daemon."""
    return lambda pods: sum(pod["status"].get("phase") == "Running" for pod in pods) >= count


async def printed(daemon: Serving, code: str) -> str:
    async with connect(daemon.said["nats"].partition(" ")[0]) as client:
        result = await client.run(Job(lang="py", code=code))
        assert result.sandbox is not None, result
        return f"{result.sandbox.executor} {result.sandbox.level} {result.stdout}"


async def test_a_killed_daemon_leaves_nothing_for_long(config: str, cluster: Cluster, tmp_path: Path) -> None:
    async with serving(tmp_path / "one", *flags(config, cluster, 3)) as first:
        await until(cluster, PODS, "", running(3))
        (lease,) = (await cluster.list(LEASES))[0]
        dead = lease["metadata"]["name"]
        first.process.kill()
        await first.process.wait()
    assert await owned(cluster, dead)
    async with serving(tmp_path / "two", *flags(config, cluster, 1)) as second:
        assert await printed(second, "print('hi')") == "pods pod hi\n"
        await until(cluster, PODS, f"runnerd.dev/daemon={dead}", lambda pods: not pods)
        assert dead not in {found["metadata"]["name"] for found in (await cluster.list(LEASES))[0]}
        code, _ = await second.stop(signal.SIGTERM)
        assert code == 0
    await cluster_fixture.no_pods(cluster)
    assert (await cluster.list(LEASES))[0] == []


async def owned(cluster: Cluster, daemon: str) -> list[Object]:
    return (await cluster.list(PODS, labels=f"runnerd.dev/daemon={daemon}"))[0]
