"""Landlock by itself: no namespace, no filter, an ordinary user."""

import errno
import os
import signal
import socket
from pathlib import Path

import pytest

from forked import errno_of, in_child, wait_until
from runnerd.agent import landlock, linux

ABI = landlock.abi()
NOBODY = 61_234
"""A user id that nobody has, for children that signal everybody whom they can reach."""

pytestmark = pytest.mark.skipif(ABI == 0, reason="this kernel has no Landlock")
scoped = pytest.mark.skipif(ABI < 6, reason="this kernel's Landlock has no scopes (ABI 6, Linux 6.12)")


@pytest.fixture
def tree(tmp_path):
    for name in ("read", "write", "secret"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    return tmp_path


def _restricted(tree: Path, **settings) -> None:
    landlock.restrict(read=[str(tree / "read"), "/usr", "/lib", "/lib64"], write=[str(tree / "write"), "/dev/null"], **settings)


def test_files(tree):
    def run():
        _restricted(tree)
        return {
            "read": errno_of((tree / "read/file").read_text),
            "list": errno_of(os.listdir, tree / "read"),
            "write where only read": errno_of((tree / "read/file").write_text, "x"),
            "make where only read": errno_of((tree / "read/new").touch),
            "write": errno_of((tree / "write/file").write_text, "x"),
            "make": errno_of((tree / "write/new").mkdir),
            "move within": errno_of(os.rename, tree / "write/file", tree / "write/new/file"),
            "secret": errno_of((tree / "secret/file").read_text),
            "list secret": errno_of(os.listdir, tree / "secret"),
            "move out": errno_of(os.rename, tree / "write/new/file", tree / "secret/new"),
            "link in": errno_of(os.link, tree / "secret/file", tree / "write/link"),
            "truncate": errno_of(os.truncate, tree / "secret/file", 0),
            "host": errno_of(Path("/etc/shadow").read_text),
            "null": errno_of(Path("/dev/null").write_text, "x"),
            "program": os.spawnl(os.P_WAIT, "/usr/bin/true", "true"),
        }

    no = errno.EACCES
    expected = {"read": 0, "list": 0, "write where only read": no, "make where only read": no, "write": 0, "make": 0, "secret": no}
    expected |= {"move within": 0 if ABI >= 2 else errno.EXDEV, "list secret": no, "host": no, "null": 0, "program": 0}
    expected |= {"truncate": no if ABI >= 3 else 0}
    got = in_child(run)
    assert got.pop("move out") in (errno.EACCES, errno.EXDEV)
    assert got.pop("link in") in (errno.EACCES, errno.EXDEV)
    assert got == expected
    assert (tree / "secret/file").read_text() == "secret"


def test_what_is_open_already_stays_open(tree):
    def run():
        with open(tree / "secret/file", encoding="utf-8") as file:
            _restricted(tree)
            return file.read(), errno_of(open, f"/proc/self/fd/{file.fileno()}")

    assert in_child(run) == ("secret", errno.EACCES)


def test_paths_that_are_not_there_are_left_out(tree):
    def run():
        landlock.restrict(read=[str(tree / "none"), str(tree / "read")], write=["/no/such/thing"])
        return errno_of((tree / "read/file").read_text), errno_of((tree / "secret/file").read_text)

    assert in_child(run) == (0, errno.EACCES)


def test_no_way_back_and_no_new_privileges(tree):
    def run():
        _restricted(tree)
        landlock.restrict(read=["/"], write=["/"])  # a second one can only take away
        return errno_of((tree / "secret/file").read_text), errno_of(linux.mount, "tmpfs", tree / "write", "tmpfs")

    assert in_child(run) == (errno.EACCES, errno.EPERM)


@pytest.mark.parametrize("abi", range(1, ABI + 1))
def test_each_abi_that_a_kernel_may_offer(tree, monkeypatch, abi):
    monkeypatch.setattr(landlock, "abi", lambda: abi)

    def run():
        _restricted(tree)
        codes = [errno_of((tree / name / "file").write_text, "x") for name in ("write", "read", "secret")]
        return codes, errno_of((tree / "read/file").read_text)

    assert in_child(run) == ([0, errno.EACCES, errno.EACCES], 0)


@pytest.mark.skipif(ABI < 4, reason="this kernel's Landlock has no network rules (ABI 4, Linux 6.7)")
def test_tcp(tree):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run(net: bool):
            _restricted(tree, net=net)
            with socket.socket() as client, socket.socket() as server:
                return errno_of(client.connect, listener.getsockname()), errno_of(server.bind, ("127.0.0.1", 0))

        assert in_child(run, True) == (errno.EACCES, errno.EACCES)
        assert in_child(run, False) == (0, 0)


@scoped
def test_abstract_sockets(tree):
    name = f"\0runnerd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        listener.listen()

        def run(scope: bool):
            _restricted(tree, scope=scope)
            with socket.socket(socket.AF_UNIX) as client, socket.socket(socket.AF_UNIX) as own:
                own.bind(name + "-own")
                own.listen()
                return errno_of(client.connect, name), errno_of(client.connect, name + "-own")

        assert in_child(run, True) == (errno.EPERM, 0)
        assert in_child(run, False)[0] == 0


@scoped
def test_signals_reach_only_what_is_below(tree):
    parent = os.getpid()

    def run():
        _restricted(tree)
        pid = os.fork()
        if pid == 0:
            signal.pause()
        os.kill(pid, signal.SIGKILL)
        return os.waitpid(pid, 0)[1], errno_of(os.kill, parent, 0), errno_of(os.kill, parent, signal.SIGCONT)

    assert in_child(run) == (signal.SIGKILL, errno.EPERM, errno.EPERM)


def _chain() -> None:
    """Be replaced by a child again and again, so that a list of processes is always out of date."""
    os.setsid()
    while True:
        try:
            if os.fork():
                os._exit(0)
        except OSError:
            pass


@scoped
def test_everything_below_is_killed_and_nothing_else():
    bystander = os.fork()
    if bystander == 0:
        os.setresuid(NOBODY, NOBODY, NOBODY)
        signal.pause()
        os._exit(0)

    def supervise():
        os.setresuid(NOBODY, NOBODY, NOBODY)
        linux.set_child_subreaper()
        landlock.scope_signals()
        supervisor = os.getpid()
        read, write = os.pipe()
        if os.fork() == 0:
            landlock.scope_signals()
            refused = (errno_of(os.kill, supervisor, signal.SIGKILL), errno_of(os.kill, bystander, signal.SIGKILL))
            os.write(write, b"refused" if refused == (errno.EPERM, errno.EPERM) else b"reached")
            _chain()
        refused = os.read(read, 7)
        wait_until(_killed_and_reaped, "all processes of the domain to be gone")
        return refused

    assert in_child(supervise) == b"refused"
    assert os.waitpid(bystander, os.WNOHANG) == (0, 0)
    os.kill(bystander, signal.SIGKILL)
    os.waitpid(bystander, 0)
    assert not _processes_of(NOBODY)


def _killed_and_reaped() -> bool:
    errno_of(os.kill, -1, signal.SIGKILL)
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return True
    return False


def _processes_of(uid: int) -> list[str]:
    return [path.name for path in Path("/proc").glob("[0-9]*") if not errno_of(path.stat) and path.stat().st_uid == uid]


def test_scopes_where_there_are_none(monkeypatch):
    monkeypatch.setattr(landlock, "abi", lambda: 5)
    with pytest.raises(OSError, match="ABI 5 has no scopes"):
        landlock.scope_signals()


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM])
def test_a_kernel_without_landlock(monkeypatch, code):
    def missing(*_):
        raise OSError(code, "landlock_create_ruleset")

    monkeypatch.setattr(linux, "syscall", missing)
    assert landlock.abi() == 0
