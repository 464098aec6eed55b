"""What a pod's status says: whether it can be connected to, whether it has ended, and why. Plain code on what the watch brings."""

from typing import Any, NamedTuple

Object = dict[str, Any]

TEXT = 300
"""Characters that are kept of what Kubernetes says."""
HOPELESS = {
    "ErrImagePull": "its image could not be fetched",
    "ImagePullBackOff": "its image could not be fetched",
    "ErrImageNeverPull": "its image is not on the node, and pods.pull_policy is Never",
    "InvalidImageName": "its image has no valid name",
    "ImageInspectError": "its image is broken",
    "CreateContainerConfigError": "its container could not be configured",
    "CreateContainerError": "its container could not be made",
    "RunContainerError": "its container could not be started",
}
"""Reasons of a container that waits which will not go away soon, in our words."""


DISK = ("ephemeral", "EmptyDir")
"""Words by which the kubelet tells an eviction for what the pod itself wrote from one for the want of its node."""


class End(NamedTuple):
    """How a pod ended."""

    reason: str
    limit: str = ""
    """Which of its job's limits the kubelet ended it for: `memory_bytes`, `workspace_bytes`; empty where for none."""

    @property
    def oom(self) -> bool:
        """Whether memory ran out."""
        return self.limit == "memory_bytes"


def address(pod: Object) -> str:
    """Where the agent can be reached; empty until the container runs."""
    status = pod.get("status", {})
    return str(status.get("podIP") or "") if status.get("phase") == "Running" and ended(pod) is None else ""


def trouble(pod: Object) -> str:
    """Why the pod will not start, as far as is known; empty where nothing speaks against it."""
    for container in _containers(pod):
        waiting = container.get("state", {}).get("waiting") or {}
        if ours := HOPELESS.get(waiting.get("reason", "")):
            image = container.get("image", "")
            return f"{ours}: {image}: {_text(waiting.get('message') or waiting['reason'])}"
    return ""


def waits_for(pod: Object) -> str:
    """Why the pod has not started yet, for one who has lost patience."""
    for condition in pod.get("status", {}).get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") != "True":
            return f"no node takes it: {_text(condition.get('message') or condition.get('reason'))}"
    for container in _containers(pod):
        waiting = container.get("state", {}).get("waiting") or {}
        if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            return _text(f"{waiting['reason']}: {waiting.get('message', '')}")
    return ""


def ended(pod: Object) -> End | None:
    """How the pod ended; None while it has not."""
    status = pod.get("status", {})
    for container in _containers(pod):
        done = container.get("state", {}).get("terminated")
        if done and done.get("reason") == "OOMKilled":
            return End("all memory of its container was used up", "memory_bytes")
    if status.get("phase") == "Failed" and status.get("reason"):  # Evicted, DeadlineExceeded, NodeLost …
        return End(_text(f"{status['reason']}: {status.get('message', '')}"), _overrun(status))
    for container in _containers(pod):
        done = container.get("state", {}).get("terminated")
        if done and (container.get("name") == "sandbox" or done.get("exitCode")):
            return End(_terminated(container, done))
    if status.get("phase") in ("Failed", "Succeeded"):
        return End(f"its pod has {status['phase'].lower()}")
    if pod.get("metadata", {}).get("deletionTimestamp"):
        return End("its pod was deleted")
    return None


def _overrun(status: Object) -> str:
    """The limit of its own for which a pod was evicted."""
    message = str(status.get("message") or "")
    own = status["reason"] == "Evicted" and "node was low on" not in message and any(word in message for word in DISK)
    return "workspace_bytes" if own else ""


def last_word(events: list[Object]) -> str:
    """What the latest of some events says."""
    if not events:
        return ""
    latest = max(events, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
    return _text(f"{latest.get('reason', '')}: {latest.get('message', '')}")


def _terminated(container: Object, done: Object) -> str:
    what = "its agent" if container.get("name") == "sandbox" else f"its container {container.get('name')}"
    how = f"was ended by signal {done['signal']}" if done.get("signal") else f"ended with {done.get('exitCode')}"
    said = _text(done.get("message") or "")
    return f"{what} {how}{': ' + said if said else ''}"


def _containers(pod: Object) -> list[Object]:
    status = pod.get("status", {})
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def _text(said: object) -> str:
    return " ".join(str(said).split())[-TEXT:]
