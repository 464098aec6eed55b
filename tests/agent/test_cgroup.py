"""Control groups: made, seen to hold, and gone afterwards."""

import errno
import fcntl
import os
import signal
import threading
from pathlib import Path

import pytest

from forked import errno_of, in_child, wait_until
from runnerd.agent import cgroup, cgroup_places, linux
from runnerd.agent.cgroup_group import tree_removed

OWN = cgroup_places.own_directories()
MEMORY = 64 << 20
PLAIN_USER = 65_532


def _ours() -> set[str]:
    """Groups of this test run, wherever they are."""
    return _all() - _of_others


def _all() -> set[str]:
    places = {place for place in OWN.values() if os.path.isdir(place)}
    return {f"{place}/{name}" for place in places for name in os.listdir(place) if name.startswith(f"runnerd-{os.getpid()}-")}


_of_others = _all()
"""Executors that other tests opened in this process, and go on using."""


@pytest.fixture(autouse=True)
def others():
    _of_others.clear()
    _of_others.update(_all())


@pytest.fixture
def backend(others):
    reasons: list[str] = []
    found = cgroup.find(reasons)
    if found is None:
        pytest.skip("; ".join(reasons))
    yield found
    found.close()
    assert _ours() == set()


@pytest.fixture
def group(backend):
    return backend.group("cell-0")


def _enter(group) -> None:
    for fd in group.entries():
        os.write(fd, b"0")


def _needs(backend, *limits: str) -> None:
    missing = set(limits) - set(backend.enforced)
    if missing:
        pytest.skip(f"cannot be limited here: {', '.join(missing)}")


def test_found_by_doing(backend):
    if os.getuid() == 0:
        assert backend.enforced == ("memory", "processes", "cpu")
    assert {Path(place).name for place in _ours()} == {next(iter(_ours())).rpartition("/")[2]}


def test_too_much_memory_is_told_from_other_kills(backend, group):
    _needs(backend, "memory")
    group.limit(MEMORY, 20, None)
    group.reset()

    def fill():
        _enter(group)
        kept = []
        while True:
            kept.append(bytearray(1 << 20))

    with pytest.raises(AssertionError, match="ended with -9"):
        in_child(fill)
    usage = group.usage()
    assert usage.oom_kills == 1
    assert usage.memory_bytes == pytest.approx(MEMORY, rel=0.05)
    assert usage.cpu_ns > 0
    group.reset()
    assert group.usage().oom_kills == 0
    assert group.usage().memory_bytes < MEMORY // 2


def test_files_in_memory_count(backend, group, tmp_path):
    _needs(backend, "memory")
    group.limit(MEMORY, 20, None)

    def fill():
        _enter(group)
        linux.unshare(linux.CLONE_NEWNS)
        linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
        linux.mount("tmpfs", tmp_path, "tmpfs", 0, "size=1g")
        with open(tmp_path / "big", "wb") as file:
            for _ in range(256):
                file.write(bytes(1 << 20))

    with pytest.raises(AssertionError, match="ended with -9"):
        in_child(fill)
    assert group.usage().oom_kills == 1


def test_limits_can_be_raised_and_lowered(backend, group):
    _needs(backend, "memory", "processes", "cpu")
    for memory, processes, cores in ((MEMORY, 20, 1.0), (2 * MEMORY, 40, 0.5), (MEMORY // 2, 10, 2), (None, None, None), (MEMORY, 20, 1.0)):
        group.limit(memory, processes, cores)
    if backend.version == 1:
        directories = group._directories
        assert int(Path(directories["memory"], "memory.limit_in_bytes").read_text()) == MEMORY
        assert int(Path(directories["memory"], "memory.memsw.limit_in_bytes").read_text()) == MEMORY
        assert int(Path(directories["cpu"], "cpu.cfs_quota_us").read_text()) == 20_000
        assert int(Path(directories["cpu"], "cpu.cfs_period_us").read_text()) == 20_000
    assert int(Path(group._directories["pids"], "pids.max").read_text()) == 20


def test_a_limit_below_what_is_in_use_is_refused(backend, group):
    _needs(backend, "memory")
    if backend.version == 2:
        pytest.skip("version 2 kills instead")

    def use():
        _enter(group)
        kept = bytearray(48 << 20)
        refused = errno_of(group.limit, 8 << 20, None, None)
        return refused, len(kept), errno_of(group.limit, MEMORY, None, None)

    assert in_child(use) == (errno.EBUSY, 48 << 20, 0)


def test_processes_and_threads_are_counted_together(backend, group):
    _needs(backend, "processes")
    group.limit(None, 8, None)
    group.reset()

    def start():
        _enter(group)
        pids, stop = [], threading.Event()
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                signal.pause()
            pids.append(pid)
        threads = []
        try:
            for _ in range(20):
                threads.append(threading.Thread(target=stop.wait))
                threads[-1].start()
        except RuntimeError:
            threads.pop()
        stop.set()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        return 1 + len(pids) + len(threads)

    assert in_child(start) == 8
    assert group.usage().pids_refused >= 1
    group.reset()
    assert group.usage().pids_refused == 0


def test_cpu_time_of_all_descendants_is_counted(group):
    group.reset()

    def burn():
        _enter(group)
        if os.fork() == 0:
            while os.times().user < 0.1:
                pass
            os._exit(0)
        os.wait()

    in_child(burn)
    assert group.usage().cpu_ns >= 90_000_000
    group.reset()
    assert group.usage().cpu_ns < 90_000_000


def test_a_cell_enters_from_another_root_and_sees_no_path_of_the_host(backend, group, tmp_path):
    def run():
        linux.unshare(linux.CLONE_NEWNS)
        linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
        linux.mount("tmpfs", tmp_path, "tmpfs")
        for name in ("old", "proc"):
            (tmp_path / name).mkdir()
        linux.mount("/proc", tmp_path / "proc", None, linux.MS_BIND | linux.MS_REC)
        linux.pivot_root(tmp_path, tmp_path / "old")
        linux.umount("/old", linux.MNT_DETACH)
        _enter(group)
        before = Path("/proc/self/cgroup").read_text()
        linux.unshare(linux.CLONE_NEWCGROUP)
        return before, Path("/proc/self/cgroup").read_text()

    before, after = in_child(run)
    assert before.count("/cell-0\n") == len(set(group._directories.values()))
    assert "runnerd" not in after
    assert {line.rpartition(":")[2] for line in after.splitlines()} == {"/"}


def _start_chain(group) -> None:
    """A process in the group that is replaced by a child again and again, in sessions of their own."""
    if os.fork() == 0:
        os.setsid()
        _enter(group)
        while True:
            try:
                if os.fork():
                    os._exit(0)
            except OSError:
                pass


def _empty(group) -> bool:
    return not any(cgroup_places.processes(path) for path in group._paths)


def test_all_that_is_in_a_group_is_killed(group):
    group.limit(None, 64, None)

    def run():
        linux.set_child_subreaper()
        for _ in range(3):
            _start_chain(group)
        wait_until(lambda: not _empty(group), "the chains to start")
        _wait_until_killed(group)

    in_child(run)
    assert group.remove()


def _wait_until_killed(group) -> None:
    def gone() -> bool:
        group.kill()
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return _empty(group)
        return False

    wait_until(gone, "all processes of the group to be gone")


def test_a_group_in_use_is_removed_later(group):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        _enter(group)
        os.write(write, b"in")
        signal.pause()
        os._exit(0)
    os.read(read, 2)
    paths = group._paths
    group.kill()
    wait_until(group.remove, "the group to be removed")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert not any(os.path.exists(path) for path in paths)
    os.close(read)
    os.close(write)


def test_closing_kills_what_is_left(backend):
    group = backend.group("cell-1")
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        _enter(group)
        os.write(write, b"in")
        signal.pause()
        os._exit(0)
    os.read(read, 2)
    before = len(os.listdir("/proc/self/fd"))
    group._close()
    backend.close()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert _ours() == set()
    assert len(os.listdir("/proc/self/fd")) < before
    os.close(read)
    os.close(write)


def test_the_same_name_twice_is_refused_and_harms_nothing(backend, group):
    with pytest.raises(FileExistsError):
        backend.group("cell-0")
    assert all(os.path.isdir(path) for path in group._paths)


def test_groups_of_dead_agents_are_removed_and_those_of_live_ones_kept(backend):
    dead = os.fork()
    if dead == 0:
        os._exit(0)
    os.waitpid(dead, 0)
    place = os.path.dirname(sorted(_ours())[0])
    stale = Path(place, f"runnerd-{dead}-0abc")
    (stale / "cell-0").mkdir(parents=True)
    others = Path(place, "runnerd-main-0abc")
    others.mkdir()
    try:
        ours = _ours()
        second = cgroup.find()
        assert second is not None
        assert not stale.exists()
        assert ours < _ours()
        assert others.exists()
        second.close()
        assert _ours() == ours
    finally:
        others.rmdir()


def test_a_stale_group_with_a_lock_is_somebody_elses(backend):
    """An agent in another PID namespace: no process of its number is to be seen here."""
    dead = os.fork()
    if dead == 0:
        os._exit(0)
    os.waitpid(dead, 0)
    name = next(iter(_ours()))
    foreign = Path(os.path.dirname(name), f"runnerd-{dead}-0abc")
    foreign.mkdir()
    fd = os.open(foreign, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        cgroup.find().close()
        assert foreign.exists()
    finally:
        os.close(fd)
        foreign.rmdir()


@pytest.mark.skipif(os.getuid() != 0, reason="becoming another user needs root")
def test_an_ordinary_user_is_told_why_not():
    def run():
        os.setgroups([])
        os.setresgid(PLAIN_USER, PLAIN_USER, PLAIN_USER)
        os.setresuid(PLAIN_USER, PLAIN_USER, PLAIN_USER)
        reasons: list[str] = []
        return cgroup.find(reasons) is None, reasons

    none, reasons = in_child(run)
    assert none
    assert reasons
    if "memory" in OWN:
        assert [reason.partition(":")[0] for reason in reasons if "no group can be made" in reason] == ["cpu", "memory", "pids"]


@pytest.mark.skipif("memory" not in OWN or os.getuid() != 0, reason="needs version 1 and root, to give a directory away")
def test_a_directory_given_to_an_ordinary_user_is_enough():
    given = {name: Path(OWN[name], f"given-{os.getpid()}") for name in ("memory", "pids")}
    for path in given.values():
        path.mkdir()
        for entry in (path, path / "cgroup.procs", path / "tasks"):
            os.chown(entry, PLAIN_USER, PLAIN_USER)
    try:

        def run():
            for path in given.values():
                (path / "cgroup.procs").write_text("0")
            os.setgroups([])
            os.setresgid(PLAIN_USER, PLAIN_USER, PLAIN_USER)
            os.setresuid(PLAIN_USER, PLAIN_USER, PLAIN_USER)
            found = cgroup.find()
            found.close()
            return found.enforced

        assert in_child(run) == ("memory", "processes")
    finally:
        for path in given.values():
            wait_until(lambda path=path: tree_removed(str(path)), "the directory to be empty")
