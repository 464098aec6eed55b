"""Control groups of version 2, and finding one's place among the hierarchies."""

import os
import signal
from pathlib import Path

import pytest

from forked import in_child, wait_until
from runnerd.agent import cgroup, cgroup_places
from runnerd.agent.cgroup_group import Group2, tree_removed

OWN = cgroup_places.own_directories()
MEMORY = 64 << 20


def _enter(group) -> None:
    for fd in group.entries():
        os.write(fd, b"0")


@pytest.fixture
def own2():
    """A version 2 group as if a service manager had made it for us; without `memory`, but its rules are the same."""
    if "cgroup" not in OWN or os.getuid() != 0:
        pytest.skip("needs a version 2 hierarchy and root")
    if "hugetlb" not in cgroup_places.controllers(OWN["cgroup"]):
        pytest.skip("needs a controller in the version 2 hierarchy to divide")
    had = "hugetlb" in Path(OWN["cgroup"], "cgroup.subtree_control").read_text()
    cgroup_places.hand_on(OWN["cgroup"], ["hugetlb"])
    place = Path(OWN["cgroup"], f"service-{os.getpid()}")
    place.mkdir()
    yield place
    wait_until(lambda: tree_removed(str(place)), "the group to be empty")
    if not had:
        Path(OWN["cgroup"], "cgroup.subtree_control").write_text("-hugetlb")


def _in(place: Path) -> None:
    (place / "cgroup.procs").write_text("0")


def test_our_own_group_is_divided_after_our_family_has_moved(own2):
    def run():
        _in(own2)
        child = os.fork()
        if child == 0:
            signal.pause()
        reasons: list[str] = []
        place = cgroup_places.delegated(str(own2), ["hugetlb", "memory"], reasons)
        again = cgroup_places.delegated(cgroup_places.own_directories()["cgroup"], ["hugetlb"], reasons)
        answer = (place, again, reasons, cgroup_places.processes(f"{own2}/{cgroup_places.LEAF}") == [os.getpid(), child])
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        backend = cgroup.Backend(2, {"cgroup": str(own2)}, reasons)
        group = backend.group("cell-0")
        in_child(lambda: _enter(group))
        used = group.usage()
        group.remove()
        backend.close()
        return (*answer, used.cpu_ns > 0, used.memory_bytes)

    assert in_child(run) == (str(own2), str(own2), [], True, True, None)


def test_a_group_with_strangers_is_left_alone(own2):
    stranger = os.fork()
    if stranger == 0:
        _in(own2)
        signal.pause()
        os._exit(0)

    def run():
        wait_until(lambda: cgroup_places.processes(str(own2)), "the stranger")
        _in(own2)
        reasons: list[str] = []
        return cgroup_places.delegated(str(own2), ["hugetlb"], reasons), reasons

    place, reasons = in_child(run)
    os.kill(stranger, signal.SIGKILL)
    os.waitpid(stranger, 0)
    assert place is None
    assert reasons == [f"{own2} also holds process {stranger}: start runnerd in a group of its own (systemd: Delegate=yes)"]


def test_limits_in_version_2(tmp_path):
    """What is written where, on plain files: whether a kernel holds to it is another test's matter."""
    group = Group2.__new__(Group2)
    group._directories = dict.fromkeys(("cgroup", "memory", "pids", "cpu"), str(tmp_path))
    group._files, group._written = {}, {}
    for name in ("memory.max", "memory.swap.max", "pids.max", "cpu.max"):
        (tmp_path / name).write_text("")
    group.limit(MEMORY, 20, 0.5)
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert written == {"memory.max": str(MEMORY), "memory.swap.max": "0", "pids.max": "20", "cpu.max": "10000 20000"}
    for fd in group._files.values():
        os.close(fd)


def test_version_2_holds_limits():
    if "memory" not in cgroup_places.controllers(OWN.get("cgroup", "")):
        pytest.skip("this kernel's version 2 hierarchy has no memory controller: it is held by version 1, or there is none")
    found = cgroup.find()
    assert found is not None
    assert found.version == 2
    assert "memory" in found.enforced
    found.close()


# Finding one's place


def _places(tmp_path, groups: str, mounts: str) -> dict[str, str]:
    (tmp_path / "cgroup").write_text(groups)
    (tmp_path / "mountinfo").write_text(mounts)
    return cgroup_places.own_directories(str(tmp_path))


def test_place_in_version_2_alone(tmp_path):
    mounts = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
    places = _places(tmp_path, "0::/system.slice/runnerd.service\n", mounts)
    assert places == {"cgroup": "/sys/fs/cgroup/system.slice/runnerd.service"}


def test_place_in_both_versions(tmp_path):
    mounts = (
        "30 23 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "31 23 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
        "32 23 0:28 / /sys/fs/cgroup/my\\040unified rw - cgroup2 cgroup2 rw\n"
        "33 23 0:29 / /tmp rw - tmpfs tmpfs rw\n"
    )
    places = _places(tmp_path, "5:memory:/a\n4:cpu,cpuacct:/\n1:name=systemd:/b\n0::/c\n", mounts)
    cpu = "/sys/fs/cgroup/cpu,cpuacct"
    assert places == {"memory": "/sys/fs/cgroup/memory/a", "cpu": cpu, "cpuacct": cpu, "cgroup": "/sys/fs/cgroup/my unified/c"}


def test_place_in_a_container_that_sees_its_own_part(tmp_path):
    mounts = "30 23 0:26 /docker/1 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n31 23 0:26 /docker/2 /other ro - cgroup2 cgroup rw\n"
    assert _places(tmp_path, "5:memory:/docker/1/in\n0::/docker/1\n", mounts) == {"memory": "/sys/fs/cgroup/memory/in"}


def test_no_place_outside_of_a_cgroup_namespace(tmp_path):
    mounts = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    assert _places(tmp_path, "0::/../other\n", mounts) == {}
