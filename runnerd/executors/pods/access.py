"""What we may do in the cluster, looked at before anything is done: missing rights are named, not met one by one."""

from typing import NamedTuple

from ...errors import SandboxError
from .cluster import EVENTS, JOBS, LEASES, NETWORK_POLICIES, PODS, RUNTIME_CLASSES, Cluster, ClusterError, Resource
from .settings import PodSettings

FORBIDDEN = 403


class Right(NamedTuple):
    """What a daemon has to be allowed."""

    resource: Resource
    verbs: tuple[str, ...]


def rights(settings: PodSettings) -> tuple[Right, ...]:
    """All that is needed in the namespace of the sandboxes."""
    needed = (
        Right(PODS, ("create", "delete", "list", "watch")),
        Right(LEASES, ("create", "get", "update", "delete", "list", "watch")),
    )
    return (*needed, Right(JOBS, ("create", "delete"))) if settings.cold == "job" else needed


async def check(cluster: Cluster, settings: PodSettings, *, closed: bool = False) -> tuple[str, ...]:
    """Refuse a cluster in which we may not do what we have to. Raises SandboxError. Returns what people should know.

    `closed` demands a NetworkPolicy that denies sandboxes all egress.
    """
    missing = [
        f"{verb} {right.resource.plural}"
        for right in rights(settings)
        for verb in right.verbs
        if not await cluster.may(verb, right.resource)
    ]
    if missing:
        raise SandboxError(
            f"the Kubernetes API at {cluster.host} does not allow us, in namespace {cluster.namespace}, to {', '.join(missing)}: "
            "give the daemon's service account a Role with these verbs"
        )
    open_door = await _policies(cluster, settings)
    if open_door and closed:
        raise SandboxError(f"{open_door}, and isolation.minimum demands more: create such a policy, as deploy/helm does")
    warnings = [open_door]
    if not await cluster.may("list", EVENTS):
        warnings.append("may not list events: why a pod does not start can be told less well")
    if not await cluster.may("patch", PODS):
        warnings.append("may not patch pods: those that run a job for long are not labelled")
    return tuple(warning for warning in warnings if warning)


async def _policies(cluster: Cluster, settings: PodSettings) -> str:
    """A warning where no NetworkPolicy denies what sandboxes send."""
    try:
        found, _ = await cluster.list(NETWORK_POLICIES)
    except ClusterError as error:
        if error.code != FORBIDDEN:
            raise
        return "may not list networkpolicies: whether one denies sandboxes the network can't be told"
    labels = {
        "app.kubernetes.io/managed-by": "runnerd",
        "app.kubernetes.io/component": "sandbox",
        "app.kubernetes.io/instance": settings.instance,
    }
    if any(_denies(policy.get("spec", {}), labels) for policy in found):
        return ""
    return (
        f"no NetworkPolicy in namespace {cluster.namespace} denies sandboxes all egress: "
        "only the agent's own filter keeps them from the network"
    )


def _denies(spec: dict[str, object], labels: dict[str, str]) -> bool:
    """Whether a policy selects our pods and lets nothing out of them."""
    selector = spec.get("podSelector") or {}
    wanted = selector.get("matchLabels", {}) if isinstance(selector, dict) else {}
    selects = all(labels.get(name) == value for name, value in wanted.items()) and not (
        isinstance(selector, dict) and selector.get("matchExpressions")
    )
    return selects and "Egress" in (spec.get("policyTypes") or ()) and not spec.get("egress")  # type: ignore[operator]


async def handler(cluster: Cluster, runtime_class: str) -> str:
    """What runs pods of a RuntimeClass; empty where we may not look. Raises SandboxError where there is no such class."""
    try:
        found = await cluster.get(RUNTIME_CLASSES, runtime_class, namespaced=False)
    except ClusterError as error:
        if error.code == FORBIDDEN:
            return ""
        raise SandboxError(f"pods.runtime_class: {runtime_class}: {error}") from error
    return str(found.get("handler", ""))
