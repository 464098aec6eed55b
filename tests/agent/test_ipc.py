"""Objects that outlive the processes of a job are gone before the next one."""

import ctypes
import errno
import os

import pytest

from forked import in_child
from runnerd.agent import linux
from runnerd.agent.ipc import Namespace

KEY = 0x5EED
CREATE = 0o1666
libc = ctypes.CDLL(None, use_errno=True)
MAKE = {
    "shm": lambda: libc.shmget(KEY, 4096, CREATE),
    "sem": lambda: libc.semget(KEY, 1, CREATE),
    "msg": lambda: libc.msgget(KEY, CREATE),
    "mq": lambda: libc.mq_open(b"/left", os.O_CREAT | os.O_RDWR, 0o600, None),
}
FIND = {
    "shm": lambda: libc.shmget(KEY, 0, 0),
    "sem": lambda: libc.semget(KEY, 0, 0),
    "msg": lambda: libc.msgget(KEY, 0),
    "mq": lambda: libc.mq_open(b"/left", os.O_RDWR),
}

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces of one's own need root")


def renewed(place: str, kind: str) -> list[object]:
    linux.unshare(linux.CLONE_NEWIPC | linux.CLONE_NEWNS)
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
    namespace = Namespace(place)
    before = os.readlink("/proc/self/ns/ipc")
    namespace.renew()
    seen: list[object] = [namespace.empty, os.readlink("/proc/self/ns/ipc") == before]
    seen += [MAKE[kind]() >= 0, namespace.empty]
    namespace.renew()
    seen += [namespace.empty, FIND[kind]() >= 0, os.readlink("/proc/self/ns/ipc") == before]
    seen += [MAKE[kind]() >= 0, namespace.empty]  # it is the new one that is looked at
    return [*seen, os.listdir(place)]


@pytest.mark.parametrize("kind", MAKE)
def test_what_was_made_is_seen_and_gone(tmp_path, kind):
    nothing_made = [True, True]
    assert in_child(renewed, str(tmp_path), kind) == [*nothing_made, True, False, True, False, False, True, False, []]


def blind(place: str, kind: str) -> list[object]:
    def without_queues(*_: object) -> None:
        raise OSError(errno.ENODEV, "mount: No such device")

    linux.unshare(linux.CLONE_NEWIPC)
    linux.mount = without_queues  # in a process of the test's own
    MAKE[kind]()
    before, descriptors = os.readlink("/proc/self/ns/ipc"), len(os.listdir("/proc/self/fd"))
    namespace = Namespace(place)
    namespace.renew()
    namespace._close()
    return [FIND[kind]() >= 0, os.readlink("/proc/self/ns/ipc") == before, len(os.listdir("/proc/self/fd")) - descriptors]


@pytest.mark.parametrize("kind", MAKE)
def test_where_not_all_can_be_seen_nothing_is_left_either(tmp_path, kind):
    assert in_child(blind, str(tmp_path), kind) == [False, False, 0]
