"""Raw system calls, each made in a child."""

import errno
import fcntl
import os
import signal
import socket
import threading
from pathlib import Path

import pytest

from forked import errno_of, in_child
from runnerd.agent import linux

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="namespaces of all kinds need root here")


def _status(field: str) -> str:
    return next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field + ":"))


def test_errors_carry_the_call_and_its_errno():
    with pytest.raises(PermissionError if os.getuid() else OSError, match="setns: Bad file descriptor") as caught:
        linux.setns(-1)
    assert caught.value.errno == errno.EBADF
    with pytest.raises(FileNotFoundError, match="umount2"):
        linux.umount("/no/such/place")


def test_clone_into_namespaces():
    def run():
        pid = linux.clone(linux.CLONE_NEWPID | linux.CLONE_NEWNS | linux.CLONE_NEWUTS | linux.CLONE_NEWIPC | linux.CLONE_NEWNET)
        if pid == 0:
            linux.sethostname("inside")
            alone = os.getpid() == 1 and threading.get_native_id() == 1 and threading.main_thread().ident == threading.get_ident()
            thread = threading.Thread(target=socket.gethostname)
            thread.start()
            thread.join()
            os._exit(0 if alone and socket.gethostname() == "inside" and socket.if_nameindex() == [(1, "lo")] else 1)
        return os.waitpid(pid, 0)[1], socket.gethostname()

    assert in_child(run) == (0, socket.gethostname())


def test_clone_runs_python_at_fork_hooks():
    def run():
        seen = []
        os.register_at_fork(before=lambda: seen.append("before"), after_in_parent=lambda: seen.append("parent"))
        os.register_at_fork(after_in_child=lambda: seen.append("child"))
        pid = linux.clone()
        if pid == 0:
            os._exit(0 if seen == ["before", "child"] else 1)
        return os.waitpid(pid, 0)[1], seen

    assert in_child(run) == (0, ["before", "parent"])


def test_clone_as_a_sister():
    def run():
        read, write = os.pipe()
        middle = os.fork()
        if middle == 0:
            sister = linux.clone(linux.CLONE_PARENT)
            if sister == 0:
                os._exit(5)
            os.write(write, str(sister).encode())
            os._exit(0)
        os.waitpid(middle, 0)
        return os.waitpid(int(os.read(read, 20)), 0)[1]

    assert os.waitstatus_to_exitcode(in_child(run)) == 5


def test_a_refused_clone_leaves_the_parent_whole():
    def run():
        linux.drop_capabilities()
        refused = errno_of(linux.clone, linux.CLONE_NEWNS)
        pid = os.fork()
        if pid == 0:
            os._exit(3)
        return refused, os.waitpid(pid, 0)[1]

    assert in_child(run) == (errno.EPERM, 3 << 8)


def test_mounts_and_a_new_root(tmp_path):
    def run():
        linux.unshare(linux.CLONE_NEWNS)
        linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
        linux.mount("tmpfs", tmp_path, "tmpfs", linux.MS_NOSUID, "size=64k")
        for name in ("old", "usr", "usr/deep"):
            (tmp_path / name).mkdir()
        linux.mount("tmpfs", tmp_path / "usr", "tmpfs")
        (tmp_path / "usr/deep").mkdir()
        linux.mount("tmpfs", tmp_path / "usr/deep", "tmpfs")
        linux.pivot_root(tmp_path, tmp_path / "old")
        os.chdir("/")
        linux.umount("/old", linux.MNT_DETACH)
        linux.mount_setattr("/usr", linux.MOUNT_ATTR_RDONLY)
        return sorted(os.listdir("/")), errno_of(Path("/usr/deep/file").touch), errno_of(Path("/file").touch)

    assert in_child(run) == (["old", "usr"], errno.EROFS, 0)
    assert list(tmp_path.iterdir()) == []


def test_enter_a_namespace_of_another():
    def run():
        before = os.readlink("/proc/self/ns/uts")
        with open("/proc/self/ns/uts", "rb") as namespace:
            linux.unshare(linux.CLONE_NEWUTS)
            between = os.readlink("/proc/self/ns/uts")
            linux.setns(namespace.fileno(), linux.CLONE_NEWUTS)
        return before != between, os.readlink("/proc/self/ns/uts") == before

    assert in_child(run) == (True, True)


def test_giving_up_privileges():
    def run():
        linux.drop_bounding_set()
        linux.drop_capabilities()
        linux.set_no_new_privs()
        sets = {_status(name) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
        return sets, _status("NoNewPrivs"), errno_of(linux.mount, "tmpfs", "/mnt", "tmpfs"), errno_of(linux.drop_bounding_set)

    assert in_child(run) == ({"0" * 16}, "1", errno.EPERM, errno.EPERM)


def test_names_and_switches():
    def run():
        linux.set_name("a name that is far too long")
        linux.set_dumpable(False)
        linux.set_child_subreaper()
        linux.keyctl_join_session()
        return _status("Name"), linux.prctl(linux.PR_GET_DUMPABLE)

    assert in_child(run) == ("a", 0)


def test_the_death_of_the_parent_is_told():
    read, write = os.pipe()

    def run():
        pid = os.fork()
        if pid == 0:
            linux.set_pdeathsig(signal.SIGKILL)
            os.write(write, b"ready")
            while True:
                signal.pause()
        os.read(read, 5)

    in_child(run)
    os.close(write)
    assert os.read(read, 1) == b""  # the grandchild, which holds the other end, is gone
    os.close(read)


def test_orphans_come_to_the_subreaper():
    def run():
        linux.set_child_subreaper()
        pid = os.fork()
        if pid == 0:
            os._exit(0 if os.fork() else 7)
        return {os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(2)}

    assert in_child(run) == {0, 7}


def test_pidfds():
    def run():
        pid = os.fork()
        if pid == 0:
            signal.pause()
        pidfd = linux.pidfd_open(pid)
        linux.pidfd_send_signal(pidfd, signal.SIGTERM)
        ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return ended, errno_of(linux.pidfd_send_signal, pidfd, signal.SIGTERM)

    assert in_child(run) == (-signal.SIGTERM, errno.ESRCH)


def test_closing_many_descriptors():
    def run():
        fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
        linux.close_range(fds[5], fds[9])
        return [errno_of(os.fstat, fd) for fd in fds]

    assert in_child(run) == [0] * 5 + [errno.EBADF] * 5 + [0] * 10


def test_closing_where_the_kernel_cannot(monkeypatch):
    def run():
        def missing(*_):
            raise OSError(errno.ENOSYS, "close_range")

        monkeypatch.setattr(linux, "syscall", missing)
        fd = fcntl.fcntl(1, fcntl.F_DUPFD, 200)
        linux.close_range(200)
        return fd, errno_of(os.fstat, fd)

    assert in_child(run) == (200, errno.EBADF)


def test_openat2_stays_below(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/file").write_text("hi")
    (tmp_path / "out").write_text("secret")
    (tmp_path / "in/link").symlink_to("file")
    (tmp_path / "in/up").symlink_to("../out")
    directory = os.open(tmp_path / "in", os.O_RDONLY | os.O_DIRECTORY)
    try:
        fd = linux.openat2(directory, "file", os.O_RDONLY)
        assert os.read(fd, 9) == b"hi"
        assert not os.get_inheritable(fd)
        os.close(fd)
        codes = [errno_of(linux.openat2, directory, path, os.O_RDONLY) for path in ("link", "up", "../out", "/etc/passwd", "none", b"\xff")]
        assert codes == [errno.ELOOP, errno.ELOOP, errno.EXDEV, errno.EXDEV, errno.ENOENT, errno.ENOENT]
        assert errno_of(linux.openat2, directory, "up", os.O_RDONLY, linux.RESOLVE_BENEATH) == errno.EXDEV
    finally:
        os.close(directory)
