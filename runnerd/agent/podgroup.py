"""The control group of a pod's container, which the agent may only read: what the job cost, and whether memory ran out."""

from __future__ import annotations

from .cgroup_group import Usage

_UNLIMITED = 1 << 50
_MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_CPU_LIMITS = ("/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us")
_OOM = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
_CPU = ("/sys/fs/cgroup/cpu.stat", "/sys/fs/cgroup/cpuacct/cpuacct.usage", "/sys/fs/cgroup/cpu,cpuacct/cpuacct.usage")


class PodGroup:
    """Has what a slot asks of `cgroup.Group`. The limits are the container's own, set by the kubelet."""

    def __init__(self) -> None:
        self.enforced: tuple[str, ...] = tuple(
            name for name, paths in (("memory", _MEMORY_LIMITS), ("cpu", _CPU_LIMITS)) if _is_limit(_first(paths))
        )
        """Limits that the kubelet has set for the container, of `memory` and `cpu`."""
        self._before = Usage(0, None, 0, 0)
        self.reset()

    def entries(self) -> list[int]:
        """Nothing to move into: everything in the container is in its group already."""
        return []

    def limit(self, memory_bytes: int | None, processes: int | None, cpu_cores: float | None) -> None:  # noqa: ARG002
        """Nothing to set; counts from here on, since the agent, which counts too, has done much since the child was ready."""
        self.reset()

    def hurry(self) -> None:
        """Nothing to lift."""

    def processes(self) -> int:
        """0: nobody counts them."""
        return 0

    def reset(self) -> None:
        """Count from here on."""
        self._before = self._now()

    def usage(self) -> Usage:
        """What everything in the container used since `reset`, the agent included."""
        now, before = self._now(), self._before
        return Usage(now.cpu_ns - before.cpu_ns, None, now.oom_kills - before.oom_kills, 0)

    def _now(self) -> Usage:
        cpu, oom = _first(_CPU), _field(_first(_OOM), "oom_kill")
        return Usage(_field(cpu, "usage_usec") * 1000 if " " in cpu else int(cpu or 0), None, oom, 0)


def _first(paths: tuple[str, ...]) -> str:
    """What is in the first of the files that is there; empty where none is."""
    for path in paths:
        try:
            with open(path, encoding="ascii") as file:
                return file.read().strip()
        except (OSError, ValueError):
            continue
    return ""


def _field(text: str, name: str) -> int:
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdigit():
            return int(value)
    return 0


def _is_limit(text: str) -> bool:
    word = text.partition(" ")[0]
    return word.isdigit() and 0 < int(word) < _UNLIMITED
