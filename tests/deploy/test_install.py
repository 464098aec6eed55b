"""The chart on a real cluster: accepted as a dry run in all its variants, then installed, and a job run through it."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from kubernetes_asyncio import client, watch

import bare_pods
import cluster_fixture
from chart import CHART, VARIANTS, helm, objects

pytestmark = pytest.mark.pods

KEY = secrets.token_urlsafe(24)
PLURALS = {"NetworkPolicy": "networkpolicies"}
WITHOUT_NAMESPACE = {"Namespace", "ClusterRole", "ClusterRoleBinding"}


@pytest.fixture(scope="module")
def config() -> Iterator[str]:
    with cluster_fixture.kubeconfig() as file:
        yield file


@pytest.fixture(scope="module")
async def api() -> AsyncIterator[client.ApiClient]:
    async with bare_pods.cluster() as opened:
        yield opened


@pytest.fixture
async def namespace(api: client.ApiClient) -> AsyncIterator[str]:
    async with bare_pods.namespace(api, "runnerd-chart-") as name:
        yield name


async def call(
    api: client.ApiClient, method: str, path: str, body: Any = None, query: dict[str, str] | None = None, **headers: str
) -> tuple[int, Any]:
    """Status and answer of a call of the API."""
    try:
        answer = await api.call_api(
            path,
            method,
            query_params=list((query or {}).items()),
            header_params={"Accept": "application/json", "Content-Type": "application/json", **headers},
            body=body,
            _preload_content=False,
            _request_timeout=120,
        )
    except client.ApiException as error:
        return error.status, json.loads(error.body)
    return answer.status, json.loads(await answer.read())


def place(document: dict[str, Any], namespace: str) -> str:
    """Where the API makes an object."""
    version, kind = document["apiVersion"], document["kind"]
    root = f"/api/{version}" if "/" not in version else f"/apis/{version}"
    scope = "" if kind in WITHOUT_NAMESPACE else f"/namespaces/{namespace}"
    return f"{root}{scope}/{PLURALS.get(kind, kind.lower() + 's')}"


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
async def test_dry_run(api: client.ApiClient, config: str, namespace: str, values: dict[str, Any]) -> None:
    """The API takes every object, of the versions that it has itself; the namespace of the sandboxes stands for the daemon's."""
    with helm.Config(kubeconfig_path=config, namespace=namespace) as target:
        release = await asyncio.to_thread(target.install, str(CHART), "dry", values, dry_run="server")
    for document in objects(release["manifest"]):
        where = document["metadata"].get("namespace", namespace)
        document["metadata"].pop("namespace", None)
        status, answer = await call(api, "POST", place(document, namespace), document, {"dryRun": "All"})
        assert status == 201, (where, document, answer)


@contextmanager
def installed(config: str, namespace: str, values: dict[str, Any]) -> Iterator[None]:
    """The chart, installed and ready; gone after the block."""
    with helm.Config(kubeconfig_path=config, namespace=namespace) as target:
        target.install(str(CHART), "code", values)
        try:
            yield
        finally:
            target.uninstall("code")


async def ready(api: client.ApiClient, namespace: str) -> None:
    """Wait until the daemon is ready."""
    apps, core = client.AppsV1Api(api), client.CoreV1Api(api)
    try:
        async with asyncio.timeout(150), watch.Watch() as watching:
            async for event in watching.stream(apps.list_namespaced_deployment, namespace):
                if event["object"].status.ready_replicas:
                    return
    except TimeoutError:
        for pod in (await core.list_namespaced_pod(namespace)).items:
            said = await core.read_namespaced_pod_log(pod.metadata.name, namespace)
            pytest.fail(f"not ready: {pod.status}\n{said}")


async def may(api: client.ApiClient, namespace: str, where: str, verb: str, resource: str) -> bool:
    """Whether the daemon's service account may do something."""
    resource, _, sub = resource.partition("/")
    review = {
        "spec": {
            "user": f"system:serviceaccount:{namespace}:code-runnerd",
            "resourceAttributes": {"namespace": where, "verb": verb, "resource": resource, "subresource": sub},
        }
    }
    return (await client.AuthorizationV1Api(api).create_subject_access_review(review)).status.allowed


async def test_job_through_the_chart(api: client.ApiClient, config: str, namespace: str) -> None:
    """A daemon in a pod, with everything else embedded, runs a job in a pod of a namespace of its own."""
    core, boxes = client.CoreV1Api(api), f"{namespace}-boxes"
    await core.create_namespaced_secret(namespace, {"metadata": {"name": "keys"}, "stringData": {"API_KEY": KEY}})
    values = {
        "images": {"registry": cluster_fixture.REGISTRY, "tag": cluster_fixture.TAG},
        "secrets": ["keys"],
        "sandboxes": {"namespace": boxes, "createNamespace": True},
        "config": "[languages.py]\nwarm = 0\n[languages.js]\nwarm = 0\n[languages.bash]\nwarm = 1\n",
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
        "networkPolicy": {"daemonNamespaceLabels": {"made-by": "test"}},
    }
    with installed(config, namespace, values):
        await ready(api, namespace)
        path = f"/api/v1/namespaces/{namespace}/services/code-runnerd:http/proxy/exec"
        job = {"lang": "bash", "code": "echo hi; hostname"}
        status, answer = await call(api, "POST", path, job, **{"x-api-key": KEY})
        assert (status, answer["status"], answer["stdout"]) == (200, "ok", "hi\nsandbox\n"), answer
        assert answer["sandbox"]["level"] == "pod"
        status, answer = await call(api, "POST", path, job, **{"x-api-key": "not the key, by far"})
        assert status == 401

        assert await may(api, namespace, boxes, "create", "pods")
        forbidden = [("create", "pods/exec"), ("get", "pods/log"), ("get", "secrets"), ("list", "secrets")]
        forbidden += [("update", "pods"), ("deletecollection", "pods")]
        assert [each for each in forbidden if await may(api, namespace, boxes, *each)] == []
        assert not await may(api, namespace, namespace, "create", "pods")
    await gone(core, boxes)


async def gone(core: client.CoreV1Api, name: str) -> None:
    """Wait until a namespace is gone with all that was in it."""
    found = (await core.list_namespace(field_selector=f"metadata.name={name}")).items
    if not found:
        return
    async with asyncio.timeout(120), watch.Watch() as watching:
        selector = f"metadata.name={name}"
        version = found[0].metadata.resource_version
        async for event in watching.stream(core.list_namespace, field_selector=selector, resource_version=version):
            if event["type"] == "DELETED":
                return
