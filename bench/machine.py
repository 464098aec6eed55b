"""What the kernel says of processes and of this machine: all of it read from /proc and /sys."""

import os
import platform
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """CPU time of one process so far, its children not counted, in seconds. Steps of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def rss_bytes(pid: int) -> int:
    """Resident memory of one process; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def own_bytes(pid: int) -> tuple[int, int]:
    """Memory of one process that no other shares (USS), and its share of all (PSS)."""
    private = shared = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(("Private_Clean:", "Private_Dirty:")):
            private += int(line.split()[1]) * 1024
        elif line.startswith("Pss:"):
            shared = int(line.split()[1]) * 1024
    return private, shared


def descendants(pid: int) -> list[int]:
    """Children of a process and theirs; of one that ends meanwhile those that were seen."""
    found: list[int] = []
    left = [pid]
    while left:
        parent = left.pop()
        children: list[int] = []
        try:
            for task in Path(f"/proc/{parent}/task").glob("*/children"):
                children += map(int, task.read_text().split())
        except OSError:
            pass  # it, or one of its threads, ended meanwhile
        found += children
        left += children
    return found


def command(pid: int) -> str:
    """Short name of a process, empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def open_files(pid: int) -> int:
    """File descriptors of one process; none where it has ended."""
    return _entries(f"/proc/{pid}/fd")


def threads(pid: int) -> int:
    """Threads of one process; none where it has ended."""
    return _entries(f"/proc/{pid}/task")


def _entries(directory: str) -> int:
    try:
        return len(os.listdir(directory))
    except OSError:
        return 0


def mounts() -> int:
    """Mounts of sandboxes in this mount namespace: there should be none, they have namespaces of their own."""
    return sum("runnerd" in line for line in Path("/proc/self/mountinfo").read_text().splitlines())


def cgroups(pid: int) -> int:
    """Control groups of the agents that a daemon has started, over all hierarchies."""
    agents = [f"/runnerd-{child}-" for child in descendants(pid)]
    groups = (f"{place}/{name}" for place, names, _ in os.walk("/sys/fs/cgroup") for name in names)
    return sum(any(agent in group for agent in agents) for group in groups)


def describe() -> dict[str, object]:
    """What the numbers were measured on."""
    return {
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "user": os.geteuid(),
        "load_1m": os.getloadavg()[0],
    }
