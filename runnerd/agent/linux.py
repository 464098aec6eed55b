"""System calls that Python's standard library lacks, or has in newer versions only.

Each raises OSError with the kernel's errno and the call's name. All go through one prepared ctypes function, so a call
costs about a microsecond above the system call itself. The libc's own wrappers are not used: their caches and
at-fork handlers know nothing of what happens here.
"""

from __future__ import annotations

import array
import ctypes
import errno
import functools
import os
import resource
import signal
import struct
from collections.abc import Callable
from typing import Any, Union

from . import syscalls

PathLike = Union[str, bytes, "os.PathLike[str]"]

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_NOSYMFOLLOW = 256
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_STRICTATIME = 1 << 24
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

MOUNT_ATTR_RDONLY = 1
MOUNT_ATTR_NOSUID = 2
MOUNT_ATTR_NODEV = 4
MOUNT_ATTR_NOEXEC = 8
MOUNT_ATTR_NOSYMFOLLOW = 0x200000

CLONE_VM = 0x100
CLONE_FS = 0x200
CLONE_FILES = 0x400
CLONE_VFORK = 0x4000
CLONE_PARENT = 0x8000
CLONE_NEWNS = 0x20000
CLONE_CHILD_CLEARTID = 0x200000
CLONE_CHILD_SETTID = 0x1000000
CLONE_NEWCGROUP = 0x2000000
CLONE_NEWUTS = 0x4000000
CLONE_NEWIPC = 0x8000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_NEWTIME = 0x80
"""Only for `unshare` and `clone3`: `clone` takes these bits for the exit signal."""

RESOLVE_NO_XDEV = 1
RESOLVE_NO_MAGICLINKS = 2
RESOLVE_NO_SYMLINKS = 4
RESOLVE_BENEATH = 8
RESOLVE_IN_ROOT = 16
RESOLVE_CACHED = 32

IOV_MAX = 1024
_PIDFD_SELF = -10_000
"""In place of a descriptor, from Linux 6.14 on: PIDFD_SELF_THREAD."""

PR_SET_PDEATHSIG = 1
PR_GET_DUMPABLE = 3
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_SET_SECCOMP = 22
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_TIMERSLACK = 29
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_GET_NO_NEW_PRIVS = 39
PR_GET_TID_ADDRESS = 40
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

FDS_MAX = 0xFFFFFFFF
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
AT_FDCWD = -100

_KEYCTL_JOIN_SESSION_KEYRING = 1
_SCHED_ATTR_SIZE, _RESET_ON_FORK, _SHORTEST_SLICE_NS = 48, 1, 100_000
_CAPABILITY_VERSION_3 = 0x20080522

_numbers = syscalls.numbers()
_OPEN_FILES_MOST = 1 << 20
_NOTHING = (0, 0, 0, 0, 0, 0)


def _prepared(library: ctypes.CDLL) -> Any:
    function = library.syscall
    function.argtypes = [ctypes.c_long] + [ctypes.c_void_p] * 6
    function.restype = ctypes.c_long
    return function


_call = _prepared(ctypes.CDLL(None, use_errno=True))
_call_keeping_gil = _prepared(ctypes.PyDLL(None, use_errno=True))
_call_alone = _prepared(ctypes.PyDLL(None))
"""Keeps the lock, too, and no errno."""


def syscall(name: str, *args: Any) -> int:
    """Make a system call with up to six arguments: int, bytes, None, or a ctypes object passed by reference."""
    result: int = _call(_numbers[name], *args, *_NOTHING[len(args) :])
    if result < 0:
        raise _error(name)
    return result


def _error(name: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, f"{name}: {os.strerror(code)}")


# Mounts


def mount(source: PathLike | None, target: PathLike, fstype: str | None = None, flags: int = 0, data: str | None = None) -> None:
    """mount(2)."""
    syscall(
        "mount",
        None if source is None else os.fsencode(source),
        os.fsencode(target),
        None if fstype is None else fstype.encode(),
        flags,
        None if data is None else data.encode(),
    )


def mount_setattr(target: PathLike, attributes: int, recursive: bool = True) -> None:
    """Add MOUNT_ATTR_* to a mount and, unlike a remount, to all mounts below it. Linux 5.12."""
    attr = struct.pack("QQQQ", attributes, 0, 0, 0)
    syscall("mount_setattr", AT_FDCWD, os.fsencode(target), AT_RECURSIVE if recursive else 0, attr, len(attr))


def umount(target: PathLike, flags: int = 0) -> None:
    """umount2(2)."""
    syscall("umount2", os.fsencode(target), flags)


def pivot_root(new: PathLike, old: PathLike) -> None:
    """Make `new`, a mount point, the root of this mount namespace, and put the former root at `old`."""
    syscall("pivot_root", os.fsencode(new), os.fsencode(old))


# Namespaces and processes


def unshare(flags: int) -> None:
    """Leave namespaces for new ones of one's own: CLONE_NEW*."""
    syscall("unshare", flags)


def setns(fd: int, flags: int = 0) -> None:
    """Enter the namespaces behind a descriptor: of a namespace file, or of a process (a pidfd) with CLONE_NEW*."""
    syscall("setns", fd, flags)


def sethostname(name: str) -> None:
    """Name this UTS namespace."""
    encoded = name.encode()
    syscall("sethostname", encoded, len(encoded))


def clone(flags: int = 0) -> int:
    """Fork into new namespaces (CLONE_NEW*), or as a sister of this process (CLONE_PARENT).

    Returns the child's pid, and 0 in the child, as os.fork() does; Python's at-fork hooks run. For processes with
    one thread only: at-fork handlers of C libraries do not run, and no lock of another thread is repaired.
    """
    flags |= signal.SIGCHLD
    tid = _tid_address()
    if tid:
        # as fork(3) does it: the libc's record of this thread's id must become the child's
        flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID
    _before_fork()
    # the last two are swapped between the machines: child_tid and tls on x86_64, tls and child_tid on aarch64
    last = (tid, 0) if syscalls.MACHINE == "x86_64" else (0, tid)
    pid: int = _call_keeping_gil(_numbers["clone"], flags, 0, 0, *last, 0)
    if pid == 0:
        _after_fork_child()
        return 0
    error = _error("clone") if pid < 0 else None
    _after_fork_parent()
    if error is not None:
        raise error
    return pid


def _tid_address() -> int:
    """Where the libc keeps this thread's id; 0 on a kernel that doesn't tell (no CONFIG_CHECKPOINT_RESTORE)."""
    global _tid  # noqa: PLW0603 - the address is the same in every fork
    if _tid is None:
        address = ctypes.c_void_p()
        try:
            prctl(PR_GET_TID_ADDRESS, ctypes.byref(address))
        except OSError:
            address.value = None
        _tid = address.value or 0
    return _tid


_tid: int | None = None
_before_fork = ctypes.pythonapi.PyOS_BeforeFork
_before_fork.restype = None
_after_fork_parent = ctypes.pythonapi.PyOS_AfterFork_Parent
_after_fork_parent.restype = None
_after_fork_child = ctypes.pythonapi.PyOS_AfterFork_Child
_after_fork_child.restype = None


def pidfd_open(pid: int) -> int:
    """A descriptor that stands for a process; readable once it has ended."""
    return syscall("pidfd_open", pid, 0)


def pidfd_send_signal(pidfd: int, number: int) -> None:
    """Send a signal to exactly the process behind a pidfd. Raises ProcessLookupError once it was reaped."""
    syscall("pidfd_send_signal", pidfd, number, None, 0)


# What a process may do


def prctl(option: int, *args: Any) -> int:
    """prctl(2)."""
    return syscall("prctl", option, *args)


def set_pdeathsig(number: int = signal.SIGKILL) -> None:
    """Be sent a signal when the parent's thread ends. Lost by a change of user id, so call it after that."""
    prctl(PR_SET_PDEATHSIG, number)


def set_dumpable(dumpable: bool) -> None:
    """Whether others of the same user may trace this process and read its memory and /proc files."""
    prctl(PR_SET_DUMPABLE, int(dumpable))


def set_no_new_privs() -> None:
    """Never gain a privilege by execve, this process and all that descend from it."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def set_child_subreaper(on: bool = True) -> None:
    """Become the parent of orphans among one's descendants."""
    prctl(PR_SET_CHILD_SUBREAPER, int(on))


def set_name(name: str) -> None:
    """Name this thread, as `ps` shows it: 15 bytes are kept."""
    prctl(PR_SET_NAME, name.encode()[:15] + b"\0")


def wipe_environment() -> None:
    """Forget all variables, and have none of them left where /proc/self/environ and every fork would show them: proc_pid_stat(5)."""
    os.environ.clear()
    with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    start, end = (int(field) for field in fields[47:49])  # env_start and env_end are 50 and 51, and `pid (name)` is not among these
    ctypes.memset(start, 0, end - start)


def drop_capabilities() -> None:
    """Give up all capabilities: effective, permitted, inheritable and with them ambient."""
    syscall("capset", struct.pack("Ii", _CAPABILITY_VERSION_3, 0), bytes(24))


def drop_bounding_set() -> None:
    """Never regain a capability by execve. Needs CAP_SETPCAP: call it before drop_capabilities()."""
    for capability in range(64):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return  # past the last capability that this kernel knows


def keyctl_join_session() -> None:
    """Start an empty session keyring, so that no key of whoever started the agent is within reach."""
    syscall("keyctl", _KEYCTL_JOIN_SESSION_KEYRING, None)


def madvise(address: int, length: int, advice: int) -> bool:
    """Say what memory of this process will be used for; whether the kernel took it."""
    return bool(_call(_numbers["madvise"], address, length, advice, 0, 0, 0) == 0)


def madvise_all(ranges: array.array[int], advice: int) -> Callable[[], int]:
    """A call, prepared for a child that wants to write to little memory before: it says the same for ranges of address and length.

    It returns bytes that the kernel took, up to the first range that it did not, -1 where it does not know how: before Linux 6.14,
    see process_madvise(2). Takes the first IOV_MAX ranges, which are its iovecs.
    """
    address, numbers = ranges.buffer_info()
    arguments = (_PIDFD_SELF, address, min(IOV_MAX, numbers // 2), advice, 0, 0)
    return functools.partial(_call_alone, ctypes.c_long(_numbers["process_madvise"]), *map(ctypes.c_void_p, arguments))


# Scheduling


def shorten_slice() -> None:
    """Have this thread take the processor for 0.1 ms at a time: woken, it runs before those are done that take it for longer.

    It gets no more time by that. What it starts has the usual slices, and no negative nice value. A thread of another policy than the
    usual one stays as it is. From Linux 6.12 on, see sched_setattr(2); without effect before. Raises OSError.
    """
    if os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK != os.SCHED_OTHER:
        return
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    attr = struct.pack("=IIQiIQQQ", _SCHED_ATTR_SIZE, os.SCHED_OTHER, _RESET_ON_FORK, nice, 0, _SHORTEST_SLICE_NS, 0, 0)
    syscall("sched_setattr", 0, attr, 0)


# Descriptors


def close_range(first: int, last: int = FDS_MAX) -> None:
    """Close all descriptors from `first` to `last`, both included."""
    try:
        syscall("close_range", first, last, 0)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EINVAL):
            raise
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # before Linux 5.9, and gVisor, which takes no number so large
        os.closerange(first, min(last, _OPEN_FILES_MOST if limit == resource.RLIM_INFINITY else limit) + 1)


def openat2(dir_fd: int, path: PathLike, flags: int, resolve: int = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS, mode: int = 0) -> int:
    """Open a path below a directory, held to RESOLVE_*; the descriptor is closed on exec. Linux 5.6.

    Raises OSError: EXDEV where the path leaves the directory, ELOOP at a symlink, EAGAIN where a rename at the same
    moment kept the kernel from being sure (trying again is up to the caller, and needs a bound).
    """
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, mode, resolve)
    return syscall("openat2", dir_fd, os.fsencode(path), how, len(how))
