"""How far sandboxes are isolated, in words that can be compared; and how little of it the daemon accepts."""

from typing import Literal

from msgspec import Struct

from .errors import Rejected

_STRENGTH = {
    "process": 0,
    "landlock": 1,
    "userns": 2,
    "strong": 3,
    "pod": 3,
    "gvisor": 4,
    "pod+gvisor": 4,
    "vm": 4,
    "pod+kata": 4,
}
"""Levels that executors reach. What is not listed counts as `process`: a level earns its place here by its tests."""

Minimum = Literal["process", "landlock", "userns", "strong", "gvisor", "pod", "pod+gvisor", "pod+kata"]


Reused = Literal["session", "tenant"]


class IsolationSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What jobs may count on."""

    minimum: Minimum = "userns"
    """Weakest level at which jobs run: `gvisor`, `strong`, `userns`, `landlock` or `process`. Below it every job is rejected. The
    last two don't keep untrusted code from everything on this machine: name one of them only where you trust every job. `pod`,
    `pod+gvisor` and `pod+kata` demand pods, the last two such a runtime class, and all three a NetworkPolicy that denies egress."""

    @property
    def pods(self) -> bool:
        """Whether pods are demanded, and nothing that is merely as strong."""
        return self.minimum.startswith("pod")

    reuse: tuple[Reused, ...] = ()
    """For what else than one job a sandbox may serve at all, where `reuse` of a language or of the pool says so: `session`, `tenant`."""


def check_level(level: str, settings: IsolationSettings) -> None:
    """Refuse jobs where the executor reached less than is demanded. Raises Rejected, naming the setting."""
    if _STRENGTH.get(level, 0) < _STRENGTH[settings.minimum] or (settings.pods and not level.startswith("pod")):
        raise Rejected(
            f"isolation: this daemon's sandboxes reach level {level!r}, and jobs need {settings.minimum!r} at least: "
            f"`runnerd check` says what is missing; isolation.minimum = {level!r} in runnerd.toml "
            "(RUNNERD_ISOLATION_MINIMUM) accepts less, for jobs that you trust"
        )
