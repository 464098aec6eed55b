"""Pods against what is below them: the same job in the local executor, and bare pods of the same image. On KUBECONFIG's cluster.

All in this process, so that nothing but the sandboxes differs; each measure takes turns with its baseline.
"""

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec

from runnerd import Job, Language, Result, new_id
from runnerd.executors.local import LocalSettings, open_local
from runnerd.executors.pods import manifest
from runnerd.executors.pods.cluster import PODS, Cluster, Object, Resource, open_cluster
from runnerd.executors.pods.executor import PodExecutor, open_pods
from runnerd.executors.pods.manifest import Owner, Wanted
from runnerd.executors.pods.settings import PodSettings
from runnerd.executors.pods.watching import Watching
from runnerd.limits import LimitSettings
from runnerd.plugins import find_plugins
from runnerd.scheduler import Scheduler, SchedulerSettings, open_scheduler
from runnerd.spec import Executor

from .measures import Size
from .samples import Samples, p50

NAMESPACES = Resource("v1", "namespaces")
ACCOUNTS = Resource("v1", "serviceaccounts")
LEASES = Resource("coordination.k8s.io/v1", "leases")
START_S = 120.0
WARM = 3
AT_ONCE = 3
LIMITS = LimitSettings(memory_bytes=256 << 20)
LABEL = "bench=bare"


async def pods(samples: Samples, size: Size) -> None:
    """A warm job in a pod against the local executor, a pool's refill and its throughput against bare pods, calls of the API."""
    if not os.environ.get("KUBECONFIG"):
        raise RuntimeError("KUBECONFIG names no cluster")
    py = msgspec.structs.replace(find_plugins().languages["py"], warm=WARM)
    async with (
        _namespace() as (cluster, settings),
        open_pods(settings, LIMITS, START_S) as executor,
        _jobs(executor, py) as in_pods,
        _bare(cluster, settings, py) as bare,
    ):
        async with open_local(LocalSettings(), 2 * WARM, [py]) as local_executor, _jobs(local_executor, py) as locally:
            await _latency(samples, size.repeats, in_pods, locally)
            async with _jobs(executor, msgspec.structs.replace(py, reuse="tenant")) as kept:
                await _tenant(samples, size, kept, locally)
        await _refill(samples, size.repeats, in_pods, bare)
        await _throughput(samples, size, in_pods, executor, bare)


async def _latency(samples: Samples, rounds: int, in_pods: Scheduler, locally: Scheduler) -> None:
    """One job at a time, once the pools are full."""
    for _ in range(rounds):
        for name, scheduler in (("pod_job_ms", in_pods), ("local_job_ms", locally)):
            await _full(scheduler)
            await asyncio.sleep(0.05)
            samples.add(name, await _timed(scheduler))
    samples.result("pod_job_p50_ratio", p50(samples.raw["pod_job_ms"]) / p50(samples.raw["local_job_ms"]))


async def _refill(samples: Samples, rounds: int, in_pods: Scheduler, bare: "Bare") -> None:
    """From a lease until the pool is full again, and from a bare pod's creation until it is ready."""
    for _ in range(rounds):
        await _full(in_pods)
        begin = time.perf_counter()
        await _timed(in_pods)
        await _full(in_pods)
        samples.add("lease_to_refilled_ms", (time.perf_counter() - begin) * 1000)
        begin = time.perf_counter()
        name = await bare.start()
        samples.add("bare_pod_ready_ms", (time.perf_counter() - begin) * 1000)
        await bare.stop(name)
        await bare.none()
    samples.result("refill_p50_ratio", p50(samples.raw["lease_to_refilled_ms"]) / p50(samples.raw["bare_pod_ready_ms"]))


async def _throughput(samples: Samples, size: Size, in_pods: Scheduler, executor: PodExecutor, bare: "Bare") -> None:
    """Jobs, one pod each, and bare pods that are made, become ready and are deleted: as many at once, for as long."""
    seconds = 10 * size.seconds
    for _ in range(max(1, size.turns // 2)):
        await _full(in_pods)
        calls, jobs = executor.cluster.calls, 0
        begin = time.perf_counter()

        async def submitter() -> None:
            nonlocal jobs
            while time.perf_counter() - begin < seconds:  # noqa: B023 - it ends within this turn
                await _timed(in_pods)
                jobs += 1

        await asyncio.gather(*(submitter() for _ in range(AT_ONCE)))
        await _full(in_pods)
        samples.add("pod_jobs_per_s", jobs / (time.perf_counter() - begin))
        samples.add("api_calls_per_job", (executor.cluster.calls - calls) / jobs)
        samples.add("bare_pods_per_s", await bare.rate(AT_ONCE, seconds))
    samples.result("pod_throughput_ratio", p50(samples.raw["pod_jobs_per_s"]) / p50(samples.raw["bare_pods_per_s"]))
    samples.result("api_calls_per_job", p50(samples.raw["api_calls_per_job"]))


async def _tenant(samples: Samples, size: Size, kept: Scheduler, locally: Scheduler) -> None:
    """Jobs of one tenant in pods that serve it again and again, against the local executor: as many at once, for as long."""
    try:
        await _timed(kept)
    except RuntimeError as error:
        samples.notes["pods that serve a tenant"] = f"left out: {error}"
        return
    for _ in range(max(1, size.turns // 2)):
        for name, scheduler in (("pod_tenant_jobs_per_s", kept), ("local_jobs_per_s", locally)):
            await _rate(scheduler, size.seconds / 4)
            await _settled(kept)
            samples.add(name, await _rate(scheduler, size.seconds))
    samples.result("pod_tenant_throughput_ratio", p50(samples.raw["pod_tenant_jobs_per_s"]) / p50(samples.raw["local_jobs_per_s"]))


async def _settled(scheduler: Scheduler) -> None:
    """Wait until no sandbox is being made."""
    async with asyncio.timeout(START_S):
        while scheduler.health()["pools"]["py"]["starting"]:
            await asyncio.sleep(0.01)


async def _rate(scheduler: Scheduler, seconds: float) -> float:
    """Jobs in a second, AT_ONCE at a time."""
    begin, jobs = time.perf_counter(), 0

    async def submitter() -> None:
        nonlocal jobs
        while time.perf_counter() - begin < seconds:
            await _timed(scheduler)
            jobs += 1

    await asyncio.gather(*(submitter() for _ in range(AT_ONCE)))
    return jobs / (time.perf_counter() - begin)


async def _timed(scheduler: Scheduler) -> float:
    """Milliseconds of one job. Raises RuntimeError where its result is not right, or no warm sandbox had it."""
    begin = time.perf_counter()
    *_, last = [event async for event in scheduler.submit(Job(id=new_id(), tenant="bench", lang="py", code='print("hi")'))]
    elapsed = (time.perf_counter() - begin) * 1000
    if not isinstance(last, Result) or last.stdout != "hi\n":
        raise RuntimeError(f"not right: {last}")
    return elapsed


async def _full(scheduler: Scheduler) -> None:
    """Wait until the pool has all that it is to have warm."""
    async with asyncio.timeout(START_S):
        while scheduler.health()["pools"]["py"]["warm"] < WARM:
            await asyncio.sleep(0.002)


@asynccontextmanager
async def _jobs(executor: Executor, language: Language) -> AsyncIterator[Scheduler]:
    kv = find_plugins().stores["memory"]().open_kv()
    async with kv as opened, open_scheduler(executor, {"py": language}, opened, LIMITS, SchedulerSettings(slots=AT_ONCE)) as scheduler:
        yield scheduler


@asynccontextmanager
async def _namespace() -> AsyncIterator[tuple[Cluster, PodSettings]]:
    """A namespace of our own, and settings of small pods in it."""
    name = f"bench-{secrets.token_hex(4)}"
    settings = PodSettings(
        kubeconfig=os.environ["KUBECONFIG"],
        namespace=name,
        image_registry=os.environ.get("K8S_IMAGE_REGISTRY", "localhost/runnerd"),
        image_tag=os.environ.get("K8S_IMAGE_TAG", "latest"),
        cpu_request=0.005,
        memory_request_bytes=16 << 20,
        storage_request_bytes=0,
    )
    async with open_cluster(settings) as cluster:
        await cluster.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}, namespaced=False)
        try:
            while not (await cluster.list(ACCOUNTS))[0]:
                await asyncio.sleep(0.1)
            yield cluster, settings
        finally:
            await cluster.delete(NAMESPACES, name, namespaced=False)


class Bare:
    """Pods that are those of sandboxes, but for what they run: nothing."""

    def __init__(self, cluster: Cluster, make: Callable[[str], Object]) -> None:
        self.watching = Watching(cluster, PODS, LABEL, lambda *_: self._changed.set())
        self._changed = asyncio.Event()
        self._cluster = cluster
        self._make = make

    async def start(self) -> str:
        """Make one and wait until it is ready; returns its name."""
        name = f"bare-{secrets.token_hex(4)}"
        await self._cluster.create(PODS, self._make(name))
        await self._until(lambda: _ready(self.watching.objects.get(name, {})))
        return name

    async def stop(self, name: str) -> None:
        await self._cluster.delete(PODS, name, gracePeriodSeconds=0)

    async def none(self) -> None:
        """Wait until there is none."""
        await self._until(lambda: not self.watching.objects)

    async def rate(self, at_once: int, seconds: float) -> float:
        """How many are made, become ready and are deleted, in a second."""
        begin, count = time.perf_counter(), 0

        async def maker() -> None:
            nonlocal count
            while time.perf_counter() - begin < seconds:
                await self.stop(await self.start())
                count += 1

        await asyncio.gather(*(maker() for _ in range(at_once)))
        await self.none()
        return count / (time.perf_counter() - begin)

    async def _until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(START_S):
            while not holds():
                self._changed.clear()
                await self._changed.wait()


def _ready(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions") or ()
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


@asynccontextmanager
async def _bare(cluster: Cluster, settings: PodSettings, language: Language) -> AsyncIterator[Bare]:
    lease = {"apiVersion": LEASES.group, "kind": "Lease", "metadata": {"name": "bench"}, "spec": {}}
    owner = Owner("bench", (await cluster.create(LEASES, lease))["metadata"]["uid"])

    def make(name: str) -> Object:
        pod = manifest.pod(Wanted(name, language, LIMITS.memory_bytes, LIMITS.cpu_cores, ""), settings, owner)
        pod["metadata"]["labels"] = dict([LABEL.split("=")])
        pod["spec"]["containers"][0]["command"] = ["sleep", "infinity"]
        return pod

    bare = Bare(cluster, make)
    watching = asyncio.create_task(bare.watching.run())  # its parent is this block
    try:
        await bare.watching.listed()
        yield bare
    finally:
        watching.cancel()
