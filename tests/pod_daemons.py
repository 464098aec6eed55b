"""Whole daemons whose sandboxes are pods."""

from cluster_fixture import REGISTRY, TAG
from runnerd.executors.pods.cluster import Cluster


def flags(config: str, cluster: Cluster, warm: int, **more: object) -> list[str]:
    """What `runnerd serve` is told to make small pods in the namespace of `cluster`; names in `more` have __ for a dot."""
    values = {
        "executor.kind": "pods",
        "pods.kubeconfig": config,
        "pods.namespace": cluster.namespace,
        "pods.image_registry": REGISTRY,
        "pods.image_tag": TAG,
        "pods.cpu_request": "0.005",
        "pods.memory_request_bytes": "16Mi",
        "pods.storage_request_bytes": "0",
        "pods.dead_after_s": "6",
        "languages.py.warm": str(warm),
        "languages.js.warm": "0",
        **{name.replace("__", "."): value for name, value in more.items()},
    }
    return [f"{name}={value}" for name, value in values.items()]
