"""What pods, nodes and the API do to jobs, and what becomes of the jobs. On a real cluster."""

import asyncio
from pathlib import Path

import pytest

import cluster_fixture
from cluster_door import door, with_token
from cluster_fixture import LIMITS, START_S, until
from conftest import bundled_languages
from runnerd import Result, SandboxError
from runnerd.executors.pods.cluster import LEASES, NETWORK_POLICIES, PODS, Cluster, Resource
from runnerd.executors.pods.executor import open_pods
from runnerd.executors.pods.settings import PodSettings
from scheduled_pods import first_output, job, jobs_in, names, result, standing

pytestmark = pytest.mark.pods
PY = bundled_languages()["py"]
QUOTAS = Resource("v1", "resourcequotas")
SLEEP = "import time\nprint('on', flush=True)\ntime.sleep(2)\nprint('over')"


async def test_a_pod_that_is_killed_under_its_job_is_replaced_and_the_job_started_again(config: str, cluster: Cluster) -> None:
    async with jobs_in(config, cluster) as (scheduler, executor):
        events = scheduler.submit(job(SLEEP, stream=True))
        await first_output(events)
        (leased,) = [name for name, sighting in executor._sightings.items() if sighting.pod and name in standing([sighting.pod])][:1]
        await cluster.delete(PODS, leased, gracePeriodSeconds=0)
        *_, last = [event async for event in events]
        assert isinstance(last, Result)
        assert (last.status, last.stdout, last.starts) == ("ok", "on\nover\n", 2), last.reason


async def test_a_job_that_may_not_be_started_again_is_dead_and_says_why(config: str, cluster: Cluster) -> None:
    async with jobs_in(config, cluster) as (scheduler, executor):
        events = scheduler.submit(job(SLEEP, stream=True, retry=False))
        await first_output(events)
        for name in standing([sighting.pod for sighting in executor._sightings.values() if sighting.pod]):
            await cluster.delete(PODS, name, gracePeriodSeconds=0)
        *_, last = [event async for event in events]
        assert isinstance(last, Result)
        assert last.status == "dead"
        assert "its pod was deleted" in last.reason


async def test_a_warm_pod_that_is_killed_is_replaced(config: str, cluster: Cluster) -> None:
    async with jobs_in(config, cluster) as (scheduler, _):
        before = standing(await until(cluster, PODS, "", lambda pods: len(standing(pods)) == 1))
        await cluster.delete(PODS, *before, gracePeriodSeconds=0)
        await until(cluster, PODS, "", lambda pods: bool(standing(pods) - before))
        assert (await result(scheduler, job("print('hi')"))).stdout == "hi\n"


async def test_a_job_that_takes_a_while_is_seen_in_the_cluster(config: str, cluster: Cluster) -> None:
    async with jobs_in(config, cluster, label_after_s=0.5) as (scheduler, executor):
        before = standing(await until(cluster, PODS, "runnerd.dev/state=pool", lambda pods: len(standing(pods)) == 1))
        calls = executor.cluster.calls
        assert (await result(scheduler, job("print('hi')"))).stdout == "hi\n"
        await until(cluster, PODS, "runnerd.dev/state=pool", lambda pods: len(standing(pods)) == 1 and not names(pods) & before)
        assert executor.cluster.calls - calls == 2  # its successor's creation and its own end: no label
        long = job(SLEEP, stream=True)
        events = scheduler.submit(long)
        await first_output(events)
        (leased,) = await until(cluster, PODS, "runnerd.dev/state=leased", bool)
        assert leased["metadata"]["annotations"].items() >= {"runnerd.dev/job": long.id, "runnerd.dev/tenant": long.tenant}.items()
        *_, last = [event async for event in events]
        assert isinstance(last, Result)
        assert last.stdout == "on\nover\n"


async def test_the_api_goes_away_and_comes_back(config: str, cluster: Cluster, tmp_path: Path) -> None:
    async with door(config, tmp_path) as (api, through), jobs_in(through, cluster, warm=2) as (scheduler, executor):
        pool = scheduler._pools["py"]
        async with asyncio.timeout(60):
            while len(pool.policy.warm) < 2:
                await asyncio.sleep(0.05)
        leased = scheduler.submit(job(SLEEP, stream=True))
        await first_output(leased)
        await api.shut()
        *_, last = [event async for event in leased]
        assert isinstance(last, Result)
        assert (last.status, last.starts) == ("ok", 1)
        warm = await result(scheduler, job("print('hi')"))
        assert (warm.stdout, warm.starts) == ("hi\n", 1)
        assert warm.sandbox is not None
        assert warm.sandbox.warm
        async with asyncio.timeout(30):
            while not executor.description["problem"]:
                await asyncio.sleep(0.05)
        assert "can't be reached" in executor.description["problem"]
        await api.open()
        assert (await result(scheduler, job("print('again')"))).stdout == "again\n"
        async with asyncio.timeout(60):
            while executor.description["problem"] or executor.description["removing"]:
                await asyncio.sleep(0.05)


async def test_an_image_that_is_not_there(config: str, cluster: Cluster) -> None:
    async with jobs_in(config, cluster, image_tag="no-such-tag", pull_policy="Never") as (scheduler, executor):
        calls = executor.cluster.calls
        last = await result(scheduler, job("print('hi')"))
        assert last.status == "dead"
        assert "its image is not on the node" in last.reason
        assert "python:no-such-tag" in last.reason
        assert "python:no-such-tag" in scheduler.health()["pools"]["py"]["failing"]
        assert executor.cluster.calls - calls < 20  # two for each pod


async def test_a_quota_that_is_used_up(config: str, cluster: Cluster) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"pods": "0"}}}
    await cluster.create(QUOTAS, quota)
    await until(cluster, QUOTAS, "", lambda quotas: bool(quotas and quotas[0].get("status", {}).get("hard")))
    async with jobs_in(config, cluster) as (scheduler, _):
        last = await result(scheduler, job("print('hi')"))
        assert last.status == "dead"
        assert "exceeded quota" in last.reason


async def test_a_pod_that_no_node_takes(config: str, cluster: Cluster) -> None:
    settings = cluster_fixture.settings(config, cluster.namespace, node_selector={"no": "node"})
    async with open_pods(settings, LIMITS, 3.0) as executor:
        with pytest.raises(SandboxError, match=r"no node takes it: 0/. nodes are available"):
            async with executor.sandbox(PY):
                pass


async def test_two_daemons_leave_each_other_alone(config: str, cluster: Cluster) -> None:
    async with jobs_in(config, cluster) as (first, _):
        async with jobs_in(config, cluster) as (second, _):
            await until(cluster, PODS, "", lambda pods: len(standing(pods)) == 2)
            results = await asyncio.gather(result(first, job("print(1)")), result(second, job("print(2)")))
            assert [one.stdout for one in results] == ["1\n", "2\n"]
        assert (await result(first, job("print(3)"))).stdout == "3\n"
        assert len((await cluster.list(LEASES))[0]) == 1
    assert (await cluster.list(LEASES))[0] == []


async def test_a_network_policy_can_be_demanded(config: str, cluster: Cluster) -> None:
    settings = cluster_fixture.settings(config, cluster.namespace)
    with pytest.raises(SandboxError, match=r"no NetworkPolicy .* denies sandboxes all egress.*isolation\.minimum demands more"):
        async with open_pods(settings, LIMITS, START_S, closed=True):
            pass
    spec = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    policy = {"apiVersion": NETWORK_POLICIES.group, "kind": "NetworkPolicy", "metadata": {"name": "closed"}, "spec": spec}
    await cluster.create(NETWORK_POLICIES, policy)
    async with open_pods(settings, LIMITS, START_S, closed=True) as executor:
        assert executor.warnings == ()


async def test_rights_that_are_missing_are_named(config: str, cluster: Cluster, tmp_path: Path) -> None:
    account = Resource("v1", "serviceaccounts")
    await cluster.create(account, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody"}})
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": None}}
    token = await cluster.create(Resource("v1", "serviceaccounts/nobody/token"), request)
    settings = PodSettings(kubeconfig=with_token(config, token["status"]["token"], tmp_path), namespace=cluster.namespace)
    with pytest.raises(SandboxError, match=r"does not allow us, in namespace .*, to create pods, delete pods"):
        async with open_pods(settings, LIMITS, START_S):
            pass


async def test_a_kubeconfig_that_is_wrong(config: str, tmp_path: Path) -> None:
    async def refused(words: str, **changes: str) -> None:
        with pytest.raises(SandboxError, match=words):
            async with open_pods(PodSettings(**changes), LIMITS, START_S):  # type: ignore[arg-type]
                pass

    await refused("there is no /no/such/file", kubeconfig="/no/such/file")
    (tmp_path / "garbage").write_text("][")
    await refused("pods.kubeconfig: .*garbage can't be used", kubeconfig=str(tmp_path / "garbage"))
    await refused("pods.kubeconfig: .* can't be used: .*elsewhere", kubeconfig=config, context="elsewhere")
    async with door(config, tmp_path) as (api, through):
        await api.shut()
        await refused("the Kubernetes API at .* can't be reached", kubeconfig=through)
        await api.open()


@pytest.mark.slow
async def test_a_hundred_jobs_at_once_on_a_pool_of_three(config: str, cluster: Cluster) -> None:
    async with jobs_in(config, cluster, warm=3, slots=10) as (scheduler, _):
        results = await asyncio.gather(*(result(scheduler, job(f"print({n})")) for n in range(100)))
    assert [one for one in results if one.status != "ok"] == []
    assert [one.stdout for one in results] == [f"{n}\n" for n in range(100)]
