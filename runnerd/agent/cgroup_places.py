"""Where a process may make control groups: below its own one, in each hierarchy that is mounted."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

LEAF = "runnerd-main"
"""In version 2, groups with controllers hold groups or processes, not both: what was in our own group goes here."""
MOVE_ROUNDS = 10
"""How often newly started processes are moved as well before giving up."""


def own_directories(proc: str = "/proc/self") -> dict[str, str]:
    """This process's own group in each hierarchy: its directory by controller, version 2 under the name `cgroup`."""
    paths: dict[str, str] = {}
    for line in _lines(f"{proc}/cgroup"):
        _, controllers, path = line.split(":", 2)
        paths.update((name or "cgroup", path) for name in controllers.split(","))
    directories: dict[str, str] = {}
    for line in _lines(f"{proc}/mountinfo"):
        left, _, right = line.partition(" - ")
        root, mount_point = left.split()[3:5]
        fstype, _, options = right.split()[:3]
        names = {"cgroup": options.split(","), "cgroup2": ["cgroup"]}.get(fstype, [])
        for name in names:
            below = _below(paths.get(name, ""), root)
            if below is not None:
                directories.setdefault(name, _unescaped(mount_point) + below.rstrip("/"))
    return directories


def controllers(directory: str) -> set[str]:
    """What a version 2 group may hand on to groups below it."""
    try:
        return set(" ".join(_lines(f"{directory}/cgroup.controllers")).split())
    except OSError:
        return set()


def delegated(own: str, wanted: Iterable[str], reasons: list[str]) -> str | None:
    """The version 2 group below which groups with controllers can be made, or None with the reason appended.

    It is our own group, after all processes in it, which must be of our own family, have moved to a leaf below it.
    They stay there: another agent of the same family then finds all prepared.
    """
    if os.path.basename(own) == LEAF:
        own = os.path.dirname(own)
    wanted = sorted(set(wanted) & controllers(own))
    try:
        if os.path.exists(f"{own}/cgroup.type"):  # the root of the hierarchy has none, and may hold both
            strangers = _strangers(own)
            if strangers:
                reasons.append(f"{own} also holds process {strangers[0]}: start runnerd in a group of its own (systemd: Delegate=yes)")
                return None
            _hand_on_from_inner(own, wanted)
        else:
            hand_on(own, wanted)
    except OSError as error:
        reasons.append(f"{own} is not ours to divide ({error.strerror}): start runnerd in a delegated group (systemd: Delegate=yes)")
        return None
    return own


def hand_on(directory: str, names: Iterable[str]) -> None:
    """Give groups below a version 2 group these controllers."""
    with open(f"{directory}/cgroup.subtree_control", "w", encoding="ascii") as file:
        file.write(" ".join("+" + name for name in names))


def processes(directory: str) -> list[int]:
    """Processes in a group, 0 for each that is outside of our PID namespace."""
    return [int(line) for line in _lines(f"{directory}/cgroup.procs")]


def _hand_on_from_inner(own: str, wanted: Iterable[str]) -> None:
    leaf = f"{own}/{LEAF}"
    os.makedirs(leaf, exist_ok=True)
    for rounds_left in reversed(range(MOVE_ROUNDS)):
        for pid in processes(own):
            try:
                with open(f"{leaf}/cgroup.procs", "w", encoding="ascii") as file:
                    file.write(str(pid))
            except ProcessLookupError:
                pass  # it has ended
        try:
            return hand_on(own, wanted)
        except OSError as error:
            if error.errno != errno.EBUSY or rounds_left == 0:
                raise
    return None


def _strangers(own: str) -> list[int]:
    """Processes of a group that do not descend from our topmost ancestor in it."""
    inside = set(processes(own))
    top = pid = os.getpid()
    while pid > 0:
        if pid in inside:
            top = pid
        pid = _parent(pid)
    return [pid for pid in inside if not _descends(pid, top)]


def _descends(pid: int, ancestor: int) -> bool:
    while pid > 0 and pid != ancestor:
        pid = _parent(pid)
    return pid == ancestor


def _parent(pid: int) -> int:
    try:
        stat = _lines(f"/proc/{pid}/stat")[-1]
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(stat.rpartition(")")[2].split()[1])


def _below(path: str, root: str) -> str | None:
    """`path` as seen in a mount of the hierarchy's directory `root`; None where it lies outside."""
    if not path.startswith("/") or path.startswith("/.."):
        return None
    if root == "/":
        return path
    if path == root or path.startswith(root + "/"):
        return path[len(root) :]
    return None


def _unescaped(mount_point: str) -> str:
    return mount_point.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")


def _lines(path: str) -> list[str]:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read().splitlines()
