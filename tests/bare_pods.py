"""Bare pods of our images, confined as sandboxes are, without an executor: they run a few commands and end."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from kubernetes_asyncio import client, config, watch

import cluster_fixture

RUNNER = """
import json, os, subprocess, sys
work = json.loads(os.environ.pop("WORK"))
for name, text in work["files"].items():
    with open(name, "w") as file:
        file.write(text)
for command in work["commands"]:
    environ = {**os.environ, "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp", "TMPDIR": "/tmp", **work["env"]}
    done = subprocess.run(command, env=environ, stdout=sys.stdout, stderr=sys.stderr)
    if done.returncode:
        sys.exit(done.returncode if done.returncode > 0 else 1)
"""
"""Run by the agent's interpreter, which every image has."""


def image(name: str) -> str:
    """An image of ours, in full."""
    return f"{cluster_fixture.REGISTRY}-{name}:{cluster_fixture.TAG}"


@asynccontextmanager
async def cluster() -> AsyncIterator[client.ApiClient]:
    """A client of the cluster that tests use."""
    settings = client.Configuration()
    with cluster_fixture.kubeconfig() as file:
        await config.load_kube_config(file, client_configuration=settings)
        async with client.ApiClient(settings) as api:
            yield api


@asynccontextmanager
async def namespace(api: client.ApiClient, name: str) -> AsyncIterator[str]:
    """A namespace of the test's own, gone afterwards."""
    core = client.CoreV1Api(api)
    made = await core.create_namespace({"metadata": {"generateName": name}})
    try:
        await _service_account(core, made.metadata.name)
        yield made.metadata.name
    finally:
        await core.delete_namespace(made.metadata.name)


async def _service_account(core: client.CoreV1Api, name: str) -> None:
    """Pods are refused until a new namespace has its service account."""
    async with watch.Watch() as watching:
        async for _ in watching.stream(core.list_namespaced_service_account, name, timeout_seconds=60):
            return


def confined(container: dict[str, Any], *, before: dict[str, Any] | None = None) -> dict[str, Any]:
    """Spec of a pod with this container, and one that runs before it and brings the agent; both confined as sandboxes are."""
    security = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    mounts = [{"name": "data", "mountPath": "/mnt/data"}, {"name": "tmp", "mountPath": "/tmp"}]
    volumes = [{"name": "data", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]
    if before:
        mounts.append({"name": "agent", "mountPath": "/opt/runnerd", "readOnly": True})
        volumes.append({"name": "agent", "emptyDir": {}})
    main = {"name": "main", "imagePullPolicy": "Never", "securityContext": security, "volumeMounts": mounts, **container}
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "activeDeadlineSeconds": 200,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [main],
        "volumes": volumes,
    }
    if before:
        target = [{"name": "agent", "mountPath": "/target"}]
        first = {"name": "agent", "imagePullPolicy": "Never", "securityContext": security, "volumeMounts": target, **before}
        spec["initContainers"] = [first]
    return spec


def commands(name: str, files: dict[str, str], steps: list[tuple[str, ...]], env: dict[str, str]) -> dict[str, Any]:
    """A container of an image that writes files and runs commands."""
    work = json.dumps({"files": files, "commands": steps, "env": env})
    return {
        "image": name,
        "workingDir": "/mnt/data",
        "command": ["/opt/runnerd/bin/python3", "-I", "-c", RUNNER],
        "env": [{"name": "WORK", "value": work}],
    }


async def run(api: client.ApiClient, where: str, spec: dict[str, Any]) -> tuple[str, str]:
    """The phase that a pod ends in, and what it said."""
    core = client.CoreV1Api(api)
    pod = await core.create_namespaced_pod(where, {"metadata": {"generateName": "image-"}, "spec": spec})
    name = pod.metadata.name
    phase = await _ended(core, where, name)
    said = await core.read_namespaced_pod_log(name, where)
    await core.delete_namespaced_pod(name, where, grace_period_seconds=0)
    return phase, said


async def _ended(core: client.CoreV1Api, where: str, name: str) -> str:
    async with asyncio.timeout(230), watch.Watch() as watching:
        async for event in watching.stream(core.list_namespaced_pod, where, field_selector=f"metadata.name={name}"):
            if (phase := event["object"].status.phase) in {"Succeeded", "Failed"}:
                return phase
            for state in event["object"].status.container_statuses or ():
                if state.state.waiting and state.state.waiting.reason in {"ErrImageNeverPull", "CreateContainerConfigError"}:
                    pytest.fail(f"{state.image}: {state.state.waiting.message}; images/build makes it, tests/cluster/load-image loads it")
    raise AssertionError("the watch ended before the pod")
