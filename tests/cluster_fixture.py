"""A Kubernetes for tests, namespaces of their own in it, and executors that make pods there.

KUBECONFIG names the cluster. Without it: K3s by testcontainers where a Docker engine runs, else the one in tests/cluster. The
images are `images/build`'s; K8S_IMAGE_REGISTRY and K8S_IMAGE_TAG name others.
"""

import asyncio
import os
import secrets
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from docker_fixture import engine
from runnerd.executors.pods.cluster import PODS, Cluster, Object, Resource, open_cluster
from runnerd.executors.pods.executor import PodExecutor, open_pods
from runnerd.executors.pods.settings import PodSettings
from runnerd.limits import LimitSettings

CLUSTER = Path(__file__).parent / "cluster"
REGISTRY = os.environ.get("K8S_IMAGE_REGISTRY", "localhost/runnerd")
TAG = os.environ.get("K8S_IMAGE_TAG", "latest")
NAMESPACES = Resource("v1", "namespaces")
ACCOUNTS = Resource("v1", "serviceaccounts")
START_S = 60.0
# As a test's limits are: 256 MiB at most.
LIMITS = LimitSettings(memory_bytes=256 << 20)


@contextmanager
def kubeconfig() -> Iterator[str]:
    """The file that says where the cluster is; what was started for it is stopped after the block."""
    if given := os.environ.get("KUBECONFIG"):
        yield given
    elif engine():
        from testcontainers.k3s import K3SContainer  # noqa: PLC0415 - an engine is needed to use it

        with K3SContainer() as k3s:
            file = Path(k3s.get_wrapped_container().id + ".kubeconfig")
            file.write_text(k3s.config_yaml())
            yield str(file)
    else:
        done = subprocess.run([CLUSTER / "up"], stdout=subprocess.PIPE, text=True, check=True)
        yield done.stdout.split()[-1]  # it stays up: the next run finds it


def settings(config: str, namespace: str, **changes: Any) -> PodSettings:
    """Settings of pods that are small, so that many fit."""
    base = PodSettings(
        kubeconfig=config,
        namespace=namespace,
        image_registry=REGISTRY,
        image_tag=TAG,
        cpu_request=0.005,
        memory_request_bytes=16 << 20,
        storage_request_bytes=0,
    )
    return msgspec.structs.replace(base, **changes)


@asynccontextmanager
async def namespace(config: str) -> AsyncIterator[Cluster]:
    """A namespace of the test's own, and the API in it; gone afterwards."""
    name = f"pods-{secrets.token_hex(4)}"
    async with open_cluster(PodSettings(kubeconfig=config, namespace=name)) as cluster:
        await cluster.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}, namespaced=False)
        try:
            await until(cluster, ACCOUNTS, "", bool)  # without one, pods are refused
            yield cluster
        finally:
            await cluster.delete(NAMESPACES, name, namespaced=False)


@asynccontextmanager
async def executor(config: str, **changes: Any) -> AsyncIterator[PodExecutor]:
    """An executor in a namespace of its own."""
    async with namespace(config) as cluster, open_pods(settings(config, cluster.namespace, **changes), LIMITS, START_S) as opened:
        yield opened


async def until(
    cluster: Cluster, resource: Resource, labels: str, holds: Callable[[list[Object]], bool], patience_s: float = 90
) -> list[Object]:
    """Wait until something holds of all objects with these labels; returns them. By the watch, not by asking again."""
    found, version = await cluster.list(resource, labels=labels)
    known = {item["metadata"]["name"]: item for item in found}
    if holds(list(known.values())):
        return list(known.values())
    async with asyncio.timeout(patience_s):
        async for event in cluster.watch(resource, labels, version):
            item = event["object"]
            if event["type"] == "DELETED":
                known.pop(item["metadata"]["name"], None)
            elif event["type"] != "BOOKMARK":
                known[item["metadata"]["name"]] = item
            if holds(list(known.values())):
                return list(known.values())
    raise AssertionError("the watch ended")


async def no_pods(cluster: Cluster) -> None:
    """Wait until there is no pod in the namespace."""
    await until(cluster, PODS, "", lambda pods: not pods)
