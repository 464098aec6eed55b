"""What the agent is told at its start, as one JSON object."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

STRONG = "strong"
USERNS = "userns"
LANDLOCK = "landlock"
PROCESS = "process"
POD = "pod"
"""The container is the boundary, and the agent is alone in it: everything ends with its one lease."""
NAMESPACED = (STRONG, USERNS)
"""Levels with namespaces and a root file system of their own."""

USUAL_ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
"""What a job's environment has unless its language or itself says otherwise."""
WORKSPACE = "/mnt/data"
"""The job's directory, where it has a root of its own."""


class Options(NamedTuple):
    """Settings of one agent; sizes in bytes."""

    level: str
    scratch: str
    """A directory of the agent's own, for mount points and for workspaces without a mount namespace."""
    socket: str
    """Path of the Unix socket to listen on; empty at level `pod`, see `port`."""
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
    """How long listing and reading a job's files may take, while nobody makes us wait."""
    state_s: float = 10.0
    """How long loading a snapshot of variables may take, and taking one."""
    port: int = 0
    """TCP port to listen on, at level `pod`; 0: standard input is the one connection that there will be."""
    proof: str = ""
    """SHA-256, in hex, of the secret that a connection has to tell, at level `pod`. Of no use to whoever reads it."""
    own_kernel: bool = False
    """Whether there is a kernel for the sandbox alone, as gVisor's: then the kernel counts its processes by user."""
    nested: bool = False
    """Whether jobs of one tenant may come one after the other, at level `pod`: then none has IPC objects, which would outlive it."""
    unclaimed_s: float = 300.0
    """The agent of a pod ends where nobody has taken its lease for so long: whoever made the pod is gone."""
    files_in_memory: bool = True
    """Whether the job's directories are a tmpfs of the pod's, and count as its memory."""
    env: dict[str, str] = {}  # noqa: RUF012 - nobody changes it
    """Variables that every job gets, unless its language or itself says otherwise."""
    warm_env: dict[str, str] = USUAL_ENV
    """What a warm interpreter's job asks for that wants nothing of its own: it stands ready with that."""
    recycle_jobs: int = 10_000
    """Cells of one master may run so many jobs in all; then a new master takes over, with new addresses and a new hash secret."""

    @classmethod
    def parse(cls, text: str) -> Options:
        """Read what `dump` wrote. Raises TypeError or ValueError."""
        values = {name: value for name, value in json.loads(text).items() if name in cls._fields}  # a daemon may be newer than an image
        values["paths"] = tuple(values.get("paths", ()))
        return cls(**values)

    def changed(self, **values: Any) -> Options:
        """The same with other values."""
        return self._replace(**values)

    def dump(self) -> str:
        """The options as JSON, without those that have their default: an agent may be older, and not know them."""
        missing = object()
        return json.dumps({name: value for name, value in self._asdict().items() if value != self._field_defaults.get(name, missing)})

    @property
    def namespaced(self) -> bool:
        """Whether jobs have namespaces and a root of their own."""
        return self.level in NAMESPACED

    @property
    def alone(self) -> bool:
        """Whether jobs have the directories of their own at fixed places: in a root of their own, or in a pod."""
        return self.namespaced or self.level == POD

    @property
    def single_use(self) -> bool:
        """Whether there will be one job, or one interpreter that is kept."""
        return self.level == POD and not self.nested

    def workspace(self, slot: int) -> str:
        """The job's directory in cell `slot`, as the job sees it."""
        return WORKSPACE if self.alone else f"{self.scratch}/workspace-{slot}"

    def tmp(self, slot: int) -> str:
        """The job's directory for temporary files, as the job sees it."""
        return "/tmp" if self.alone else f"{self.scratch}/tmp-{slot}"  # noqa: S108 - in a root of its own
