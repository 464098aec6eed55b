"""What Kubernetes is told of a sandbox."""

import json
from typing import Any

import msgspec
import pytest

from conftest import bundled_languages
from runnerd import Language
from runnerd.agent.options import Options
from runnerd.executors.pods import manifest
from runnerd.executors.pods.manifest import Owner, Wanted
from runnerd.executors.pods.settings import PodSettings, bounded
from runnerd.limits import LimitSettings

PY = bundled_languages()["py"]
OWNER = Owner("runnerd-1", "uid-1")


def wanted(language: Language = PY) -> Wanted:
    return Wanted("runnerd-py-abc", language, 256 << 20, 1.5, "ab" * 32)


def pod(language: Language = PY, **changes: Any) -> dict[str, Any]:
    return manifest.pod(wanted(language), PodSettings(**changes), OWNER)


def container(found: dict[str, Any]) -> dict[str, Any]:
    (only,) = found["spec"]["containers"]
    return only


def test_nothing_is_allowed_that_a_job_does_not_need() -> None:
    found = pod()
    spec = found["spec"]
    assert spec["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "fsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container(found)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert (spec["automountServiceAccountToken"], spec["enableServiceLinks"], spec["shareProcessNamespace"]) == (False, False, False)
    assert not {"hostNetwork", "hostPID", "hostIPC", "serviceAccountName"} & set(spec)
    assert (spec["hostname"], spec["restartPolicy"]) == ("sandbox", "Never")
    assert spec["activeDeadlineSeconds"] == PodSettings().deadline_s


def test_two_places_can_be_written_and_have_a_size() -> None:
    found = pod(workspace_bytes=5 << 20, tmp_bytes=7 << 20)
    assert {mount["mountPath"]: mount["name"] for mount in container(found)["volumeMounts"]} == {"/mnt/data": "data", "/tmp": "tmp"}
    assert [volume["emptyDir"] for volume in found["spec"]["volumes"]] == [
        {"sizeLimit": str(5 << 20), "medium": "Memory"},
        {"sizeLimit": str(7 << 20), "medium": "Memory"},
    ]
    assert all("medium" not in volume["emptyDir"] for volume in pod(files="disk")["spec"]["volumes"])


def test_limits_hold_and_requests_never_exceed_them() -> None:
    resources = container(pod(agent_bytes=8 << 20, memory_request_bytes=1 << 40, cpu_request=2.0))["resources"]
    memory = str((256 << 20) + (8 << 20))
    assert resources["limits"] == {"cpu": "1500m", "memory": memory, "ephemeral-storage": str(1 << 30)}
    assert (resources["requests"]["cpu"], resources["requests"]["memory"]) == ("1500m", memory)


def test_the_pod_is_told_a_hash_and_never_the_secret() -> None:
    (variable,) = container(pod())["env"]
    options = Options.parse(variable["value"])
    assert (variable["name"], options.proof, options.level, options.port) == ("RUNNERD_AGENT", "ab" * 32, "pod", 8990)
    other = container(pod(bundled_languages()["bash"]))
    assert (options.preload, Options.parse(other["env"][0]["value"]).preload) == ("std", "none")
    assert (container(pod())["command"][0], other["command"][0]) == ("python3", "/opt/runnerd/bin/python3")


def test_labels_and_owner() -> None:
    meta = pod(instance="mine")["metadata"]
    assert meta["labels"] == {
        "app.kubernetes.io/name": "runnerd-sandbox",
        "app.kubernetes.io/component": "sandbox",
        "app.kubernetes.io/instance": "mine",
        "app.kubernetes.io/managed-by": "runnerd",
        "runnerd.dev/daemon": "runnerd-1",
        "runnerd.dev/language": "py",
        "runnerd.dev/sandbox": "runnerd-py-abc",
        "runnerd.dev/state": "pool",
    }
    assert [(owner["kind"], owner["name"], owner["uid"]) for owner in meta["ownerReferences"]] == [("Lease", "runnerd-1", "uid-1")]


def test_a_job_is_tried_once_and_has_the_same_pod() -> None:
    settings = PodSettings(ttl_s=5)
    found = manifest.job(wanted(), settings, OWNER)
    spec = found["spec"]
    assert (spec["backoffLimit"], spec["ttlSecondsAfterFinished"], spec["activeDeadlineSeconds"]) == (0, 5, settings.deadline_s)
    assert spec["template"]["spec"] == pod(ttl_s=5)["spec"]
    assert spec["template"]["metadata"]["labels"] == found["metadata"]["labels"]


def test_images_of_ours_and_any_others() -> None:
    assert container(pod(image_registry="example.org/x", image_tag="2"))["image"] == "example.org/x-python:2"
    assert "initContainers" not in pod()["spec"]
    foreign = msgspec.structs.replace(PY, image="python:3.12")
    found = pod(foreign, agent_image="agent:1")
    assert container(found)["image"] == "python:3.12"
    (init,) = found["spec"]["initContainers"]
    assert (init["image"], init["command"][-2:]) == ("agent:1", ["install", "/mnt/agent"])
    assert init["securityContext"] == container(found)["securityContext"]
    assert {"name": "agent", "mountPath": "/opt/runnerd", "readOnly": True} in container(found)["volumeMounts"]
    assert "initContainers" in pod(bring_agent="always")["spec"]
    assert "initContainers" not in pod(foreign, bring_agent="never")["spec"]


OPTIONS = {
    "runtimeClassName": ({"runtime_class": "gvisor"}, "gvisor"),
    "priorityClassName": ({"priority_class": "low"}, "low"),
    "nodeSelector": ({"node_selector": {"kind": "jobs"}}, {"kind": "jobs"}),
    "tolerations": ({"tolerations": ({"key": "jobs", "tolerationSeconds": 5},)}, [{"key": "jobs", "tolerationSeconds": 5}]),
    "imagePullSecrets": ({"pull_secrets": ("a", "b")}, [{"name": "a"}, {"name": "b"}]),
    "hostUsers": ({"host_users": False}, False),
}


@pytest.mark.parametrize("field", OPTIONS)
def test_options(field: str) -> None:
    changes, seen = OPTIONS[field]
    assert field not in pod()["spec"]
    found = pod(**changes)["spec"][field]
    assert found == seen
    json.dumps(found)


def test_of_two_settings_that_bound_the_same_thing_the_smaller_one_holds() -> None:
    limits, settings = LimitSettings(memory_bytes=1 << 30, cpu_cores=0.5), PodSettings(memory_bytes=2 << 30, cpu_cores=0.25)
    found = bounded(limits, settings)
    assert (found.memory_bytes, found.cpu_cores) == (1 << 30, 0.25)
