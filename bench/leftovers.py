"""What could leak while jobs run, counted."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

from . import machine


@dataclass(frozen=True)
class Leftovers:
    """What a daemon holds on this machine."""

    daemon_files: int
    daemon_threads: int
    daemon_rss_mb: float
    cells: int
    """Cells, and the children that stand by in them: made when they are first needed, up to a number. More of them are no leak."""
    processes: int
    """The agent, its master, its cells; not the NATS server."""
    processes_files: int
    processes_rss_mb: float
    mounts: int
    cgroups: int
    state_files: int

    @classmethod
    def count(cls, pid: int, state: Path) -> "Leftovers":
        """Of the daemon with this process id and state directory."""
        sandboxes = [each for each in machine.descendants(pid) if machine.command(each) != "nats-server"]
        return cls(
            daemon_files=machine.open_files(pid),
            daemon_threads=machine.threads(pid),
            daemon_rss_mb=round(machine.rss_bytes(pid) / 1e6, 1),
            cells=sum(machine.command(each) == "runnerd-cell" for each in sandboxes),
            processes=len(sandboxes),
            processes_files=sum(map(machine.open_files, sandboxes)),
            processes_rss_mb=round(sum(map(machine.rss_bytes, sandboxes)) / 1e6, 1),
            mounts=machine.mounts(),
            cgroups=machine.cgroups(pid),
            state_files=sum(1 for path in state.rglob("*") if path.is_file()),
        )

    def grown(self, before: "Leftovers") -> dict[str, tuple[int, int]]:
        """What there is more of than before, and than more cells explain: name, what may be, and what is. Memory and records may grow."""
        then, now = asdict(before), asdict(self)
        may_be = {name: then[name] for name in ("daemon_files", "mounts")}
        for name in ("processes", "processes_files", "cgroups"):
            may_be[name] = math.ceil(then[name] * max(1, self.cells / max(1, before.cells)))
        return {name: (value, now[name]) for name, value in may_be.items() if now[name] > value}
