"""What each variable of pods does, as the cluster sees it: value, what is looked at in a pod, what is seen without and with it."""

from collections.abc import Awaitable, Callable
from typing import Any

from runnerd import placing
from runnerd.config import load_config
from runnerd.executors.pods import manifest
from runnerd.executors.pods.manifest import Owner, Wanted
from runnerd.limits import allowed
from runnerd.plugins import find_plugins

Look = Callable[[Any], Awaitable[object]]


def spec_of(world: Any, code: str = "py") -> dict[str, Any]:
    """The spec of a pod of the language, under the world's variables."""
    plugins = find_plugins()
    settings = load_config(plugins, environ=world.environ, directory=world.directory).settings
    limits = placing.limits(settings)
    language = plugins.languages[code]
    wanted = Wanted("name", language, allowed(language, limits).memory_bytes or 0, limits.cpu_cores, "00" * 32)
    found: dict[str, Any] = manifest.pod(wanted, settings.pods, Owner("owner", "uid"))["spec"]
    return found


def container(*path: str) -> Look:
    async def look(world: Any) -> object:
        world.environ["RUNNERD_EXECUTOR_KIND"] = "pods"
        found: Any = spec_of(world)["containers"][0]
        for name in path:
            found = found[name]
        return found

    return look


async def pull_secrets(world: Any) -> object:
    return [secret["name"] for secret in spec_of(world).get("imagePullSecrets", ())]


async def namespace(world: Any) -> object:
    return load_config(find_plugins(), environ=world.environ, directory=world.directory).settings.pods.namespace


AGENT = 64 << 20
ROWS: dict[str, tuple[str, Look, object, object]] = {
    "K8S_NAMESPACE": ("jobs", namespace, "", "jobs"),
    "K8S_IMAGE_REGISTRY": ("example.org/ours", container("image"), "localhost/runnerd-python:latest", "example.org/ours-python:latest"),
    "K8S_IMAGE_TAG": ("7", container("image"), "localhost/runnerd-python:latest", "localhost/runnerd-python:7"),
    "K8S_IMAGE_PULL_SECRETS": ("one, two", pull_secrets, [], ["one", "two"]),
    "K8S_CPU_LIMIT": ("500m", container("resources", "limits", "cpu"), "1000m", "500m"),
    "K8S_MEMORY_LIMIT": (
        "256Mi",
        container("resources", "limits", "memory"),
        str((512 << 20) + AGENT),
        str((256 << 20) + AGENT),
    ),
    "K8S_CPU_REQUEST": ("250m", container("resources", "requests", "cpu"), "100m", "250m"),
    "K8S_MEMORY_REQUEST": ("64Mi", container("resources", "requests", "memory"), str(128 << 20), str(64 << 20)),
}
