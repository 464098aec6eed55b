"""What the agent is told at its start, as one JSON object."""

from __future__ import annotations

import dataclasses
import json

STRONG = "strong"
USERNS = "userns"
LANDLOCK = "landlock"
PROCESS = "process"
NAMESPACED = (STRONG, USERNS)
"""Levels with namespaces and a root file system of their own."""

WORKSPACE = "/mnt/data"
"""The job's directory, where it has a root of its own."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings of one agent; sizes in bytes."""

    level: str
    scratch: str
    """A directory of the agent's own, for mount points and for workspaces without a mount namespace."""
    socket: str
    """Path of the Unix socket to listen on."""
    cells: int
    """How many cells there may be at once."""
    preload: str = "std"
    paths: tuple[str, ...] = ()
    """Host paths (globs) that jobs may read besides the usual ones."""
    uid_base: int = 200_000
    """Cell n runs its jobs as this user id plus n, where the agent is root."""
    workspace_bytes: int = 128 << 20
    workspace_inodes: int = 16_384
    tmp_bytes: int = 512 << 20
    tmp_inodes: int = 65_536
    shm_bytes: int = 64 << 20
    collect_s: float = 10.0
    """How long listing and reading a job's files may take."""
    recycle_jobs: int = 10_000
    """Cells of one master may run so many jobs in all; then a new master takes over, with new addresses and a new hash secret."""

    @classmethod
    def parse(cls, text: str) -> Options:
        """Read what `dump` wrote. Raises TypeError or ValueError."""
        values = json.loads(text)
        values["paths"] = tuple(values.get("paths", ()))
        return cls(**values)

    def dump(self) -> str:
        """The options as JSON."""
        return json.dumps(dataclasses.asdict(self))

    @property
    def namespaced(self) -> bool:
        """Whether jobs have namespaces and a root of their own."""
        return self.level in NAMESPACED

    def workspace(self, slot: int) -> str:
        """The job's directory in cell `slot`, as the job sees it."""
        return WORKSPACE if self.namespaced else f"{self.scratch}/workspace-{slot}"

    def tmp(self, slot: int) -> str:
        """The job's directory for temporary files, as the job sees it."""
        return "/tmp" if self.namespaced else f"{self.scratch}/tmp-{slot}"  # noqa: S108 - in a root of its own
