"""What a sandbox looks like to Kubernetes: its pod, or the Job around it. Plain code from settings to dictionaries."""

import json
from typing import Any, NamedTuple

from ...agent.options import POD, WORKSPACE, Options
from ...spec import Language
from ..request import environment
from .settings import PodSettings

Object = dict[str, Any]

AGENT = "/opt/runnerd"
"""Where the agent, its interpreter and its libraries are, in every image of ours and in what an init container brings."""
COMMAND = (f"{AGENT}/bin/python3", "-I", "-S", "-X", "utf8", f"{AGENT}/agent.pyz")
WARM_COMMAND = ("python3", "-I", "-X", "utf8", f"{AGENT}/agent.pyz")
"""Where programs run in the image's own interpreter, the agent does so, too."""
VARIABLE = "RUNNERD_AGENT"
TARGET = "/mnt/agent"
"""Where the init container writes it to."""
HOST_NAME = "sandbox"
SANDBOX = "runnerd.dev/sandbox"
DAEMON = "runnerd.dev/daemon"
LANGUAGE = "runnerd.dev/language"
STATE = "runnerd.dev/state"
"""Label: what the pod stands for, `pool`, or `leased` once its job has run for a while."""
POOL, LEASED = "pool", "leased"
JOB, TENANT = "runnerd.dev/job", "runnerd.dev/tenant"
"""Annotations of a leased one: whose job it runs."""


class Owner(NamedTuple):
    """The Lease of the daemon that a pod belongs to: Kubernetes removes the pod when it is gone."""

    name: str
    uid: str


class Wanted(NamedTuple):
    """One sandbox that is to be made."""

    name: str
    language: Language
    memory_bytes: int
    """What its job may use."""
    cpu_cores: float
    proof: str
    """SHA-256 of its secret, in hex."""


def pod(wanted: Wanted, settings: PodSettings, owner: Owner) -> Object:
    """The pod of a sandbox."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": wanted.name,
            "labels": labels(wanted, settings, owner),
            "ownerReferences": [reference(owner)],
        },
        "spec": pod_spec(wanted, settings),
    }


def job(wanted: Wanted, settings: PodSettings, owner: Owner) -> Object:
    """A Kubernetes Job with the same pod in it, tried once."""
    marks = labels(wanted, settings, owner)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": wanted.name, "labels": marks, "ownerReferences": [reference(owner)]},
        "spec": {
            "backoffLimit": 0,
            "completions": 1,
            "parallelism": 1,
            "activeDeadlineSeconds": settings.deadline_s,
            "ttlSecondsAfterFinished": settings.ttl_s,
            "template": {"metadata": {"labels": marks}, "spec": pod_spec(wanted, settings)},
        },
    }


def labels(wanted: Wanted, settings: PodSettings, owner: Owner) -> dict[str, str]:
    """Labels of a sandbox, by the scheme that Kubernetes recommends and our own."""
    return {
        "app.kubernetes.io/name": "runnerd-sandbox",
        "app.kubernetes.io/component": "sandbox",
        "app.kubernetes.io/instance": settings.instance,
        "app.kubernetes.io/managed-by": "runnerd",
        DAEMON: owner.name,
        LANGUAGE: wanted.language.code,
        STATE: POOL,
        SANDBOX: wanted.name,
    }


def reference(owner: Owner) -> Object:
    """The owner of a pod or Job."""
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "name": owner.name, "uid": owner.uid}


def pod_spec(wanted: Wanted, settings: PodSettings) -> Object:
    """Everything about the pod but its name."""
    brought = brings_agent(wanted.language, settings)
    mounts: list[Object] = [{"name": "data", "mountPath": WORKSPACE}, {"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108 - in the pod
    volumes = [_volume("data", settings.workspace_bytes, settings), _volume("tmp", settings.tmp_bytes, settings)]
    if brought:
        mounts.append({"name": "agent", "mountPath": AGENT, "readOnly": True})
        volumes.append({"name": "agent", "emptyDir": {}})
    spec: Object = {
        "restartPolicy": "Never",
        "hostname": HOST_NAME,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "shareProcessNamespace": False,
        "terminationGracePeriodSeconds": 1,
        "activeDeadlineSeconds": settings.deadline_s,
        "dnsPolicy": "None",
        "dnsConfig": {"nameservers": ["127.0.0.1"]},
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": settings.user,
            "runAsGroup": settings.user,
            "fsGroup": settings.user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "sandbox",
                "image": image(wanted.language, settings),
                "imagePullPolicy": settings.pull_policy,
                "command": [*(WARM_COMMAND if wanted.language.warmup == "python" else COMMAND), "pod"],
                "workingDir": "/",
                "env": [{"name": VARIABLE, "value": options(wanted, settings).dump()}],
                "ports": [{"name": "agent", "containerPort": settings.port, "protocol": "TCP"}],
                "resources": resources(wanted, settings),
                "securityContext": CONFINED,
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "volumeMounts": mounts,
            }
        ],
        "volumes": volumes,
    }
    if brought:
        spec["initContainers"] = [_init(settings)]
    spec.update(_where(settings))
    return spec


CONFINED: Object = {
    "allowPrivilegeEscalation": False,
    "privileged": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def image(language: Language, settings: PodSettings) -> str:
    """The image of a language's pods: one of ours by its bare name, or whatever it names in full."""
    if _is_reference(language.image):
        return language.image
    return f"{settings.image_registry}-{language.image}:{settings.image_tag}"


def brings_agent(language: Language, settings: PodSettings) -> bool:
    """Whether the agent is brought in, for the image does not have it."""
    return settings.bring_agent == "always" or (settings.bring_agent == "auto" and _is_reference(language.image))


def _is_reference(name: str) -> bool:
    return "/" in name or ":" in name


def options(wanted: Wanted, settings: PodSettings) -> Options:
    """What the agent is told."""
    warm = wanted.language.warmup == "python"
    return Options(
        level=POD,
        scratch="",
        socket="",
        cells=1,
        preload=settings.preload if warm else "none",
        workspace_bytes=settings.workspace_bytes,
        tmp_bytes=settings.tmp_bytes,
        port=settings.port,
        proof=wanted.proof,
        nested=wanted.language.reuse == "tenant",
        unclaimed_s=settings.unclaimed_s,
        state_s=settings.state_s,
        files_in_memory=settings.files == "memory",
        warm_env=environment(wanted.language),
    )


def resources(wanted: Wanted, settings: PodSettings) -> Object:
    """Limits of the pod, and what is set aside for it: never more than the limit."""
    memory = wanted.memory_bytes + settings.agent_bytes
    limits = {"cpu": _cores(wanted.cpu_cores), "memory": str(memory), "ephemeral-storage": str(settings.storage_bytes)}
    requests = {
        "cpu": _cores(min(settings.cpu_request, wanted.cpu_cores)),
        "memory": str(min(settings.memory_request_bytes, memory)),
        "ephemeral-storage": str(min(settings.storage_request_bytes, settings.storage_bytes)),
    }
    return {"limits": limits, "requests": requests}


def _cores(cores: float) -> str:
    return f"{max(1, round(cores * 1000))}m"


def _volume(name: str, size: int, settings: PodSettings) -> Object:
    empty: Object = {"sizeLimit": str(size)}
    if settings.files == "memory":
        empty["medium"] = "Memory"
    return {"name": name, "emptyDir": empty}


def _init(settings: PodSettings) -> Object:
    """Copies the agent from its own image into the pod."""
    small = {"cpu": "500m", "memory": str(64 << 20), "ephemeral-storage": str(256 << 20)}
    return {
        "name": "agent",
        "image": settings.agent_image or f"{settings.image_registry}-agent:{settings.image_tag}",
        "imagePullPolicy": settings.pull_policy,
        "command": [*COMMAND, "install", TARGET],
        "resources": {"limits": small, "requests": {"cpu": "10m", "memory": str(32 << 20), "ephemeral-storage": "0"}},
        "securityContext": CONFINED,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": "agent", "mountPath": TARGET}],
    }


def _where(settings: PodSettings) -> Object:
    """On which nodes the pod runs, and as what."""
    wanted: Object = {
        "nodeSelector": dict(settings.node_selector),
        "tolerations": [json.loads(json.dumps(dict(toleration))) for toleration in settings.tolerations],
        "runtimeClassName": settings.runtime_class,
        "priorityClassName": settings.priority_class,
        "imagePullSecrets": [{"name": name} for name in settings.pull_secrets],
    }
    given = {name: value for name, value in wanted.items() if value}
    return given if settings.host_users else {**given, "hostUsers": False}
