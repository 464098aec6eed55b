"""The chart, rendered without a cluster."""

from pathlib import Path
from typing import Any

import pytest
import yaml

helm = pytest.importorskip("helm_python", reason="Helm has no wheel for this machine")

CHART = Path(__file__).parents[1] / "deploy/helm/runnerd"
RELEASE = "code"
NAMESPACE = "work"
EVERYTHING: dict[str, Any] = {
    "replicas": 3,
    "images": {"registry": "example.org/runnerd", "tag": "1.2.3", "pullSecrets": ["pull"]},
    "secrets": ["keys"],
    "env": [{"name": "LOG_LEVEL", "value": "DEBUG"}],
    "nats": {"url": "nats://a.example:4222,nats://b.example:4223"},
    "rabbitmq": {"url": "amqps://rabbit.example"},
    "redis": {"url": "redis://redis.example:6380/0"},
    "s3": {"endpoint": "minio.example:9000", "bucket": "runnerd", "region": "eu", "iam": True},
    "sandboxes": {
        "namespace": "boxes",
        "createNamespace": True,
        "runtimeClass": "gvisor",
        "priorityClass": "low",
        "nodeSelector": {"pool": "untrusted"},
        "tolerations": [{"key": "untrusted", "operator": "Exists"}],
        "quota": {"pods": "50"},
    },
    "serviceAccount": {"annotations": {"a": "b"}},
    "networkPolicy": {
        "clients": [{"namespaceSelector": {"matchLabels": {"team": "a"}}}],
        "egress": [{"to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}]}],
    },
    "autoscaling": {
        "enabled": True,
        "metrics": [{"type": "Pods", "pods": {"metric": {"name": "queue"}, "target": {"type": "AverageValue", "averageValue": "5"}}}],
    },
    "podAnnotations": {"a": "b"},
    "podLabels": {"c": "d"},
    "nodeSelector": {"pool": "trusted"},
    "tolerations": [{"key": "trusted", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}],
    "priorityClassName": "high",
}
ALONE: dict[str, Any] = {
    "persistence": {"enabled": True, "storageClass": "fast"},
    "secrets": ["keys"],
    "nats": {"expose": True},
    "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
}
VARIANTS: dict[str, dict[str, Any]] = {"as it comes": {}, "one with everything embedded": ALONE, "everything": EVERYTHING}

Object = dict[str, Any]


def render(values: dict[str, Any]) -> list[Object]:
    """All objects of the chart, for the newest Kubernetes that Helm knows."""
    with helm.Chart.load(CHART) as chart:
        chart.validate_schema(values)
        return objects(
            "\n---\n".join(text for name, text in chart.render(values, name=RELEASE, namespace=NAMESPACE).items() if name[-4:] == "yaml")
        )


def objects(text: str) -> list[Object]:
    """Objects of a manifest."""
    return [document for document in yaml.safe_load_all(text) if document]


def one(rendered: list[Object], kind: str, name: str = "") -> Object:
    """The object of this kind, and name where several have the kind."""
    [found] = [each for each in rendered if each["kind"] == kind and each["metadata"]["name"].endswith(name)]
    return found
