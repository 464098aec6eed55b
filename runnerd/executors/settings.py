"""`[executor]`: what makes sandboxes."""

from typing import Literal

from msgspec import Struct


class ExecutorSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where jobs run."""

    kind: Literal["local", "pods"] = "local"
    """`local`: on this machine, as `[local]` says. `pods`: in a Kubernetes cluster, as `[pods]` says."""
