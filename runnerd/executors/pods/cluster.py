"""The Kubernetes API, as much of it as pods need. The one module that imports the client library; its errors become ours here."""

import json
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from kubernetes_asyncio import client, config

from ...errors import SandboxError
from .settings import PodSettings

Object = dict[str, Any]
"""An object of the API, as its JSON says."""

TEXT = 500
"""Characters that are kept of what the API says."""
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
DEFAULT_KUBECONFIG = "~/.kube/config"
WATCH_S = 240
"""How long one watch lasts before it is renewed."""
SILENCE_S = 90.0
"""The API sends a bookmark every minute: a watch that hears nothing for longer is dead."""


class ClusterError(SandboxError):
    """The API could not be reached (`code` 0), or said no (an HTTP status)."""

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code


class Resource(NamedTuple):
    """A kind of object."""

    group: str
    """`v1`, or a group with its version."""
    plural: str

    @property
    def api_group(self) -> str:
        """The group without its version."""
        return self.group.rpartition("/")[0]


PODS = Resource("v1", "pods")
EVENTS = Resource("v1", "events")
JOBS = Resource("batch/v1", "jobs")
LEASES = Resource("coordination.k8s.io/v1", "leases")
NETWORK_POLICIES = Resource("networking.k8s.io/v1", "networkpolicies")
RUNTIME_CLASSES = Resource("node.k8s.io/v1", "runtimeclasses")
REVIEWS = Resource("authorization.k8s.io/v1", "selfsubjectaccessreviews")


class Cluster:
    """A namespace of a cluster. Every method raises ClusterError."""

    def __init__(self, api: Any, namespace: str, timeout_s: float) -> None:
        self.namespace = namespace
        self.host: str = api.configuration.host
        self.calls = 0
        """Requests made so far."""
        self._api = api
        self._timeout_s = timeout_s

    async def create(self, resource: Resource, body: Object, *, namespaced: bool = True) -> Object:
        """Create an object and return it."""
        return await self._json("POST", self._path(resource, namespaced=namespaced), body=body)

    async def get(self, resource: Resource, name: str, *, namespaced: bool = True) -> Object:
        """One object."""
        return await self._json("GET", self._path(resource, name, namespaced=namespaced))

    async def replace(self, resource: Resource, body: Object) -> Object:
        """Write an object anew; it must not have changed since it was read (409)."""
        return await self._json("PUT", self._path(resource, body["metadata"]["name"]), body=body)

    async def merge(self, resource: Resource, name: str, patch: Object) -> None:
        """Change what `patch` names and nothing else: a JSON merge patch, RFC 7396."""
        await self._json("PATCH", self._path(resource, name), body=patch)

    async def delete(self, resource: Resource, name: str, *, namespaced: bool = True, **options: Any) -> None:
        """Delete an object, with `DeleteOptions`. Nothing happens where there is none."""
        path = self._path(resource, name, namespaced=namespaced)
        try:
            await self._json("DELETE", path, body={"apiVersion": "v1", "kind": "DeleteOptions", **options})
        except ClusterError as error:
            if error.code != 404:
                raise

    async def list(self, resource: Resource, *, labels: str = "", fields: str = "") -> tuple[list[Object], str]:
        """All objects with these labels or fields, and the version from which to watch on."""
        query = {"labelSelector": labels, "fieldSelector": fields}
        found = await self._json("GET", self._path(resource), {name: value for name, value in query.items() if value})
        return found.get("items") or [], found["metadata"].get("resourceVersion", "")

    async def watch(self, resource: Resource, labels: str, version: str) -> AsyncGenerator[Object, None]:
        """Events since `version`, bookmarks among them, until the API ends the watch. Code 410: list anew."""
        query = {
            "watch": "true",
            "labelSelector": labels,
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_S),
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._timeout_s, sock_read=SILENCE_S)
        async with self._request("GET", self._path(resource), query, None, timeout) as response:
            while line := await response.content.readline():
                event: Object = json.loads(line)
                if event["type"] == "ERROR":
                    raise _refused(event["object"], event["object"].get("code", 0))
                yield event

    async def may(self, verb: str, resource: Resource, *, namespaced: bool = True) -> bool:
        """Whether we are allowed to do something, as the API says."""
        wanted = {"verb": verb, "group": resource.api_group, "resource": resource.plural}
        if namespaced:
            wanted["namespace"] = self.namespace
        body = {"apiVersion": REVIEWS.group, "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": wanted}}
        return bool((await self.create(REVIEWS, body, namespaced=False))["status"].get("allowed"))

    def _path(self, resource: Resource, name: str = "", *, namespaced: bool = True) -> str:
        base = f"/api/{resource.group}" if "/" not in resource.group else f"/apis/{resource.group}"
        space = f"/namespaces/{self.namespace}" if namespaced else ""
        return f"{base}{space}/{resource.plural}" + (f"/{name}" if name else "")

    async def _json(self, method: str, path: str, query: Mapping[str, str] | None = None, body: Object | None = None) -> Object:
        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        async with self._request(method, path, query, body, timeout) as response:
            answer: Object = json.loads(await response.read())
            return answer

    @asynccontextmanager
    async def _request(
        self, method: str, path: str, query: Mapping[str, str] | None, body: Object | None, timeout: aiohttp.ClientTimeout
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        self.calls += 1
        try:
            response: aiohttp.ClientResponse = await self._api.call_api(
                path,
                method,
                query_params=list((query or {}).items()),
                header_params={
                    "Accept": "application/json",
                    "Content-Type": "application/merge-patch+json" if method == "PATCH" else "application/json",
                },
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=timeout,
            )
            async with response:
                if response.status >= 400:
                    raise _refused(_status(await response.read()), response.status)
                yield response
        except (aiohttp.ClientError, OSError, ssl.SSLError) as error:
            raise ClusterError(f"the Kubernetes API at {self.host} can't be reached: {str(error) or type(error).__name__}") from error
        except (ValueError, KeyError) as error:  # what is no JSON, or not of the kind that was asked for
            raise ClusterError(f"the Kubernetes API at {self.host} answered nonsense: {error!r}") from error
        except client.ApiException as error:
            raise ClusterError(f"the Kubernetes API refused: {str(error)[:TEXT]}", int(error.status or 0)) from error


def _status(body: bytes) -> Object:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    # what is no Status may hold anything, secrets among it
    return found if isinstance(found, dict) and found.get("kind") == "Status" else {}


def _refused(status: Object, code: int) -> ClusterError:
    said = str(status.get("message") or status.get("reason") or "")
    return ClusterError(f"the Kubernetes API answered {code}{f': {said[:TEXT]}' if said else ''}", code)


@asynccontextmanager
async def open_cluster(settings: PodSettings) -> AsyncGenerator[Cluster, None]:
    """Connect to the cluster that the settings, or our surroundings, name. Raises SandboxError."""
    configuration = client.Configuration()
    try:
        namespace = await _configure(settings, configuration)
        api = client.ApiClient(configuration)
    except SandboxError:
        raise
    except Exception as error:  # the library raises whatever a wrong file makes it stumble over
        where = settings.kubeconfig or "the kubeconfig"
        raise SandboxError(f"pods.kubeconfig: {where} can't be used: {str(error) or type(error).__name__}") from error
    try:
        yield Cluster(api, settings.namespace or namespace, settings.api_timeout_s)
    finally:
        await api.close()


async def _configure(settings: PodSettings, configuration: Any) -> str:
    """Find credentials; returns the namespace that goes with them."""
    if not settings.kubeconfig and os.environ.get("KUBERNETES_SERVICE_HOST") and (ACCOUNT / "token").exists():
        config.load_incluster_config(  # type: ignore[no-untyped-call]
            client_configuration=configuration
        )
        return (ACCOUNT / "namespace").read_text().strip()
    file = _kubeconfig(settings)
    if not file:
        raise SandboxError(
            f"pods.kubeconfig: there is no {settings.kubeconfig or DEFAULT_KUBECONFIG}, and the daemon does not run in a pod: "
            "name a file in runnerd.toml, RUNNERD_PODS_KUBECONFIG or KUBECONFIG"
        )
    await config.load_kube_config(config_file=file, context=settings.context or None, client_configuration=configuration)
    contexts, current = config.list_kube_config_contexts(config_file=file)
    chosen = next((found for found in contexts if found["name"] == settings.context), current) or {}
    return str(chosen.get("context", {}).get("namespace") or "default")


def _kubeconfig(settings: PodSettings) -> str:
    """The file, or files, that say where the cluster is; empty where there is none."""
    file = os.path.expanduser(settings.kubeconfig or DEFAULT_KUBECONFIG)
    return file if any(os.path.exists(part) for part in file.split(os.pathsep)) else ""
