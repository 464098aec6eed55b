"""`[pods]`: in which namespace, of which images and how sandboxes run as pods."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from ...limits import LimitSettings

Bytes = Annotated[int, Meta(ge=0, le=1 << 50)]
Size = Annotated[int, Meta(ge=1 << 20, le=1 << 50)]
Seconds = Annotated[float, Meta(gt=0, le=31_536_000)]
Cores = Annotated[float, Meta(gt=0, le=1024)]


class PodSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sandboxes as pods of a Kubernetes cluster."""

    kubeconfig: Annotated[str, Meta(extra={"env": "KUBECONFIG"})] = ""
    """File that says where the cluster is and who we are. Empty: the service account of the pod that the daemon runs in, else
    ~/.kube/config."""
    context: str = ""
    """Which of the kubeconfig's contexts to use; empty for its current one."""
    namespace: Annotated[str, Meta(extra={"env": "K8S_NAMESPACE"})] = ""
    """Namespace of the sandboxes. Empty: that of the daemon's own pod, else the kubeconfig's, else `default`."""
    instance: Annotated[str, Meta(pattern=r"^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$")] = "runnerd"
    """What the daemons that belong together call themselves: the beginning of names, and a label."""

    image_registry: Annotated[str, Meta(extra={"env": "K8S_IMAGE_REGISTRY"})] = "localhost/runnerd"
    """What images of languages begin with: that of Python is `<image_registry>-python:<image_tag>`."""
    image_tag: Annotated[str, Meta(extra={"env": "K8S_IMAGE_TAG"})] = "latest"
    """Tag of these images."""
    agent_image: str = ""
    """Image that the agent is brought in from, where a language's image lacks it. Empty: `<image_registry>-agent:<image_tag>`."""
    bring_agent: Literal["auto", "always", "never"] = "auto"
    """Whether an init container brings the agent in: `auto` does where a language names an image of its own (with a / or a :)."""
    pull_policy: Annotated[Literal["Always", "IfNotPresent", "Never"], Meta(extra={"env": "K8S_IMAGE_PULL_POLICY"})] = "IfNotPresent"
    """When nodes fetch images."""
    pull_secrets: Annotated[tuple[str, ...], Meta(extra={"env": "K8S_IMAGE_PULL_SECRETS"})] = ()
    """Names of secrets in the namespace with which nodes fetch images."""

    cpu_cores: Annotated[Cores, Meta(extra={"env": "K8S_CPU_LIMIT"})] = 1.0
    """CPU cores that a pod may use, as limits.cpu_cores; the smaller one holds."""
    memory_bytes: Annotated[Size, Meta(extra={"env": "K8S_MEMORY_LIMIT"})] = 512 << 20
    """Memory that a job may use, as limits.memory_bytes; the smaller one holds, times the language's multiplier."""
    agent_bytes: Bytes = 64 << 20
    """Memory that a pod may use besides its job's: that of the agent and of the interpreter that stands by."""
    cpu_request: Annotated[Cores, Meta(extra={"env": "K8S_CPU_REQUEST"})] = 0.1
    """CPU cores that the scheduler sets aside for a pod."""
    memory_request_bytes: Annotated[Bytes, Meta(extra={"env": "K8S_MEMORY_REQUEST"})] = 128 << 20
    """Memory that the scheduler sets aside for a pod, in bytes."""
    storage_bytes: Size = 1 << 30
    """Ephemeral storage that a pod may use, in bytes."""
    storage_request_bytes: Bytes = 64 << 20
    """Ephemeral storage that the scheduler sets aside for a pod, in bytes."""
    files: Literal["memory", "disk"] = "memory"
    """Where /mnt/data and /tmp lie: in memory, where they count as the job's memory, or on the node's disk."""
    workspace_bytes: Size = 128 << 20
    """Size of /mnt/data in bytes."""
    tmp_bytes: Size = 512 << 20
    """Size of /tmp in bytes."""

    preload: Literal["none", "std", "data"] = "std"
    """What warm Python sandboxes have imported: nothing, the usual standard library, or numpy, pandas and pyplot as well."""
    cold: Literal["job", "pod"] = "job"
    """How languages run of which nothing stands warm: as Kubernetes Jobs, or as bare pods."""
    state_s: Seconds = 10.0
    """Seconds that loading a session's Python variables may take ahead of a job, and taking them after it."""
    overtime_s: Seconds = 60.0
    """Seconds that a sandbox may take beyond its job's time to say what became of it; then it is lost. Variables have `state_s` besides."""
    port: Annotated[int, Meta(ge=1024, le=65535)] = 8990
    """TCP port that agents listen on."""
    user: Annotated[int, Meta(ge=1, le=4_294_967_294)] = 65_532
    """User and group id of everything in a pod."""
    runtime_class: Annotated[str, Meta(extra={"env": "K8S_RUNTIME_CLASS_NAME"})] = ""
    """RuntimeClass of the pods: gVisor's or Kata's, where the cluster has one."""
    host_users: bool = True
    """False: pods get user namespaces of their own. Needs Kubernetes 1.33, or 1.25 with the feature switched on."""
    priority_class: str = ""
    """PriorityClass of the pods."""
    node_selector: Annotated[Mapping[str, str], Meta(extra={"env": "K8S_POD_NODE_SELECTOR"})] = {}
    """Labels of the nodes that pods may run on."""
    tolerations: Annotated[tuple[Mapping[str, Any], ...], Meta(extra={"env": "K8S_POD_TOLERATIONS"})] = ()
    """Taints that pods tolerate, as Kubernetes writes them."""
    deadline_s: Annotated[int, Meta(ge=60, le=31_536_000)] = 14_400
    """A pod that is still there after so many seconds is ended by Kubernetes, whatever it does. More than pool.max_age_s and a job take."""
    unclaimed_s: Seconds = 300.0
    """A pod that no daemon has connected to for so long ends by itself, in seconds. More than pool.start_timeout_s."""
    label_after_s: Annotated[float, Meta(ge=0, le=31_536_000)] = 1.0
    """A pod is labelled `runnerd.dev/state: leased`, with its job's id and tenant as annotations, once the job has run for so long, in
    seconds: what ends sooner costs no call of the API."""
    ttl_s: Annotated[int, Meta(ge=0, le=86_400)] = 60
    """How long a Kubernetes Job is kept that has ended without being removed, in seconds."""

    api_timeout_s: Seconds = 15.0
    """How long the Kubernetes API may take to answer, in seconds."""
    requests: Annotated[int, Meta(ge=1, le=1000)] = 16
    """Calls of the Kubernetes API at once."""
    dead_after_s: Annotated[float, Meta(ge=3, le=3600)] = 30.0
    """A daemon that the others saw no sign of for so long is dead, in seconds: they remove its pods."""


def bounded(limits: LimitSettings, settings: PodSettings) -> LimitSettings:
    """The daemon's limits with those of the pods: of two that bound the same thing, the smaller one."""
    return msgspec.structs.replace(
        limits,
        memory_bytes=min(limits.memory_bytes, settings.memory_bytes),
        cpu_cores=min(limits.cpu_cores, settings.cpu_cores),
    )
