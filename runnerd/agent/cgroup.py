"""Control groups, version 1 or 2: limits and accounts of all processes of a cell together.

    <own group>/runnerd-<agent's pid>-<random>/<cell>        in each hierarchy

What can be had is found by doing it: `find` makes a group, writes limits, moves a child into it and removes it. Where
version 1 holds the controllers, version 2 is still used for what it can do without any: kill a group at once.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import time
from collections.abc import Mapping

from . import cgroup_places
from .cgroup_group import Group, Group1, Group2, Usage, kill, tree_removed

__all__ = ["LIMITS", "Backend", "Group", "Usage", "find"]

CLOSE_WAIT_S = 2.0
"""How long `close` waits for processes that are dying."""
LIMITS = {"memory": "memory", "pids": "processes", "cpu": "cpu"}
"""Names of limits, by controller."""
_TOP = re.compile(r"runnerd-(\d+)-[0-9a-f]+")
_PROBE = "probe"


def find(reasons: list[str] | None = None) -> Backend | None:
    """The groups that this process can make, or None; why a limit can't be had is appended to `reasons`.

    Forks, so call it before there are threads. Removes groups that agents before this one left behind.
    """
    reasons = [] if reasons is None else reasons
    own = cgroup_places.own_directories()
    second = own.get("cgroup", "")
    if second and cgroup_places.controllers(second) & set(LIMITS):
        return _find_in_version_2(second, reasons)
    places = {name: own[name] for name in ("cgroup", "cpuacct", *LIMITS) if name in own}
    backend = Backend(1, places, reasons)
    return backend.proven(reasons)


def _find_in_version_2(own: str, reasons: list[str]) -> Backend | None:
    place = cgroup_places.delegated(own, LIMITS, reasons)
    if place is None:
        return None
    names = set(LIMITS) & cgroup_places.controllers(place)
    return Backend(2, dict.fromkeys(("cgroup", *sorted(names)), place), reasons).proven(reasons)


class Backend:
    """The agent's own groups, one in each hierarchy, with one for each cell below them."""

    def __init__(self, version: int, places: Mapping[str, str], reasons: list[str]) -> None:
        """`places` are directories of version 1 or 2 below which to make groups, by controller."""
        self.version = version
        self.enforced: tuple[str, ...] = ()
        """Limits that were seen to hold: of `memory`, `processes`, `cpu`."""
        self._name = f"runnerd-{os.getpid()}-{secrets.token_hex(4)}"
        self._tops: dict[str, str] = {}
        """Directory by controller, of those in use."""
        self._made: list[str] = []
        self._locks: list[int] = []
        for place in sorted(set(places.values())):
            names = [name for name in places if places[name] == place]
            try:
                self._open(place, names)
            except OSError as error:
                reasons += [f"{name}: no group can be made in {place} ({error.strerror})" for name in names if name in LIMITS]

    def _open(self, place: str, names: list[str]) -> None:
        _remove_stale(place)
        top = f"{place}/{self._name}"
        os.mkdir(top)
        self._made.append(top)
        self._tops.update(dict.fromkeys(names, top))
        self._locks.append(os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        fcntl.flock(self._locks[-1], fcntl.LOCK_SH)
        if self.version == 2:
            cgroup_places.hand_on(top, [name for name in names if name != "cgroup"])

    def proven(self, reasons: list[str]) -> Backend | None:
        """This backend once `enforced` says what was seen to work, or None, closed, where nothing was."""
        reasons += [f"{name}: no hierarchy with this controller is mounted" for name in LIMITS if name not in self._tops]
        enforced = []
        for controller in [name for name in LIMITS if name in self._tops]:
            try:
                self._probe(controller)
                enforced.append(LIMITS[controller])
            except OSError as error:
                reasons.append(f"{controller}: {error.strerror} ({error.filename or 'moving a process into a group'})")
                del self._tops[controller]
        self.enforced = tuple(enforced)
        if enforced:
            return self
        self.close()
        return None

    def _probe(self, controller: str) -> None:
        wanted = {name: top for name, top in self._tops.items() if name in (controller, "cgroup", "cpuacct")}
        group = self._new(_PROBE, wanted)
        try:
            group.limit(
                64 << 20 if controller == "memory" else None,
                16 if controller == "pids" else None,
                1.0 if controller == "cpu" else None,
            )
            _enter_and_end(group)
            group.usage()
        finally:
            group.remove()

    def group(self, name: str) -> Group:
        """Make a group. Raises OSError."""
        return self._new(name, self._tops)

    def _new(self, name: str, tops: Mapping[str, str]) -> Group:
        kind = Group2 if self.version == 2 else Group1
        return kind({controller: f"{top}/{name}" for controller, top in tops.items()})

    def close(self) -> None:
        """Kill what is in any group, and remove all."""
        deadline = time.monotonic() + CLOSE_WAIT_S
        for top in self._made:
            kill(top)
            while not tree_removed(top) and time.monotonic() < deadline:
                kill(top)
                time.sleep(0.005)  # version 1 tells nobody when a dying process has left its group
        for fd in self._locks:
            os.close(fd)
        self._locks.clear()
        self._made.clear()


def _enter_and_end(group: Group) -> None:
    """Have a child move into a group. Raises its OSError."""
    pid = os.fork()
    if pid == 0:
        code = errno.EIO
        try:
            for fd in group.entries():
                os.write(fd, b"0")
            code = 0
        except OSError as error:
            code = error.errno or errno.EIO
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code != 0:
        raise OSError(code, os.strerror(code))


def _remove_stale(place: str) -> None:
    """Remove groups of agents that are gone: neither a process of their number nor a holder of their lock."""
    for name in os.listdir(place):
        match = _TOP.fullmatch(name)
        if match is None or os.path.exists(f"/proc/{match[1]}"):
            continue
        try:
            fd = os.open(f"{place}/{name}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue  # somebody else was faster, or it is somebody else's
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            kill(f"{place}/{name}")
            tree_removed(f"{place}/{name}")  # what is still dying now goes with the next start
        except OSError:
            pass  # an agent in another PID namespace, alive
        finally:
            os.close(fd)
