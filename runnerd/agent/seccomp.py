"""The system call filter that every job runs under: an allow-list, shaped like the container engines' default profile.

What is not allowed fails with an errno and never kills: a program that tries something and can do without it goes on.

    allowed                          runs
    known, and not allowed           EPERM
    newer than this list             ENOSYS, so that a libc falls back to what it used before
    i386 and x32 conventions         ENOSYS
    clone3                           ENOSYS: its flags lie in memory, where no filter sees them; libcs fall back to clone

The filter is a binary search over ranges of numbers, at most eight comparisons deep. Kernels since 5.11 walk it once per
number when it is installed and then let what is always allowed through without running it.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

from . import linux, syscalls

_ALLOWED = """
    read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek sendfile splice tee vmsplice copy_file_range
    open openat openat2 creat close close_range dup dup2 dup3 fcntl flock pipe pipe2
    stat fstat lstat newfstatat statx statfs fstatfs access faccessat faccessat2 readlink readlinkat getdents getdents64
    chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat umask utime utimes utimensat futimesat
    mkdir mkdirat rmdir mknod mknodat link linkat symlink symlinkat unlink unlinkat rename renameat renameat2
    truncate ftruncate fallocate fadvise64 readahead fsync fdatasync sync_file_range getcwd chdir fchdir
    getxattr lgetxattr fgetxattr setxattr lsetxattr fsetxattr listxattr llistxattr flistxattr removexattr lremovexattr fremovexattr
    getxattrat setxattrat listxattrat removexattrat file_getattr
    io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents
    inotify_init inotify_init1 inotify_add_watch inotify_rm_watch

    poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2
    eventfd eventfd2 signalfd signalfd4 timerfd_create timerfd_settime timerfd_gettime

    connect accept accept4 bind listen shutdown getsockname getpeername getsockopt setsockopt
    sendto sendmsg sendmmsg recvfrom recvmsg recvmmsg

    mmap munmap mremap mprotect madvise msync mincore brk mlock mlock2 mlockall munlock munlockall remap_file_pages membarrier
    pkey_alloc pkey_free pkey_mprotect mseal map_shadow_stack

    fork vfork execve execveat exit exit_group wait4 waitid kill tkill tgkill pidfd_open pidfd_send_signal process_mrelease
    getpid getppid gettid getpgid getpgrp setpgid getsid setsid prctl arch_prctl seccomp
    landlock_create_ruleset landlock_add_rule landlock_restrict_self
    futex futex_waitv futex_wait futex_wake futex_requeue set_robust_list get_robust_list set_tid_address rseq restart_syscall
    set_thread_area get_thread_area getcpu

    rt_sigaction rt_sigprocmask rt_sigpending rt_sigsuspend rt_sigtimedwait rt_sigqueueinfo rt_tgsigqueueinfo rt_sigreturn
    sigaltstack pause alarm getitimer setitimer timer_create timer_settime timer_gettime timer_getoverrun timer_delete
    nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday time times

    getuid geteuid getgid getegid getresuid getresgid getgroups capget capset
    setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid setgroups
    getrlimit setrlimit getrusage getpriority ioprio_get sysinfo uname getrandom
    sched_yield sched_getaffinity sched_setaffinity sched_getattr sched_getparam sched_getscheduler
    sched_get_priority_max sched_get_priority_min sched_rr_get_interval
"""

_IPC = """
    shmget shmat shmdt shmctl semget semop semtimedop semctl msgget msgsnd msgrcv msgctl
    mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr memfd_create
"""

_DO_NOTHING = "sync syncfs"
"""Succeed at once: they would write out the host's file systems, and a job has nothing of its own to save."""

_RET_ALLOW = 0x7FFF0000
_RET_ERRNO = 0x00050000
_EPERM = _RET_ERRNO | errno.EPERM
_ENOSYS = _RET_ERRNO | errno.ENOSYS
_EAFNOSUPPORT = _RET_ERRNO | errno.EAFNOSUPPORT

_NAMESPACES = 0x7E020000
"""CLONE_NEW* in clone's flags. CLONE_NEWTIME is not among them: clone takes its bit for the exit signal."""
_PERSONALITIES = (0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
"""PER_LINUX, PER_LINUX32, UNAME26, both, and the question which it is."""
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
"""Put characters into the input of a terminal that others use."""
_FIOSETOWN, _SIOCSPGRP = 0x8901, 0x8902
_F_SETOWN, _F_SETOWN_EX = 8, 15
"""Who gets a signal when there is something to read."""
_PRIO_PROCESS, _IOPRIO_WHO_PROCESS = 0, 1

_LD, _JA, _JEQ, _JGE, _JSET, _RET = 0x20, 0x05, 0x15, 0x35, 0x45, 0x06
_NR, _ARCH = 0, 4
_SET_MODE_FILTER = 1


class Instruction(NamedTuple):
    """One instruction of classic BPF; `yes` and `no` are how many to skip."""

    code: int
    k: int
    yes: int = 0
    no: int = 0


Block = Sequence[Instruction]


def build(
    allow_sockets: Sequence[int] | None = (socket.AF_UNIX,), allow_ipc: bool = True, beyond: int = 0, machine: str = syscalls.MACHINE
) -> bytes:
    """Assemble the filter: a program for `Filter`.

    `allow_sockets` are the address families of which a job may open sockets; None (or none) leaves it socketpair() only.
    `allow_ipc` lets it have System V IPC, POSIX message queues and memfd: only where it has an IPC namespace of its own, and a
    cgroup that counts memory which is no process's.
    `beyond`, where it is not 0, keeps it from signalling processes and groups of that number and below, and `-1`, which is all.
    """
    actions = _actions(tuple(allow_sockets or ()), allow_ipc, beyond, syscalls.numbers(machine))
    ranges = _ranges(actions)
    tree = _tree(ranges)
    start: list[Instruction] = [
        Instruction(_LD, _ARCH),
        Instruction(_JEQ, syscalls.AUDIT_ARCHES[machine], yes=1),
        Instruction(_RET, _ENOSYS),
        Instruction(_LD, _NR),
    ]
    return b"".join(struct.pack("HBBI", i.code, i.yes, i.no, i.k) for i in (*start, *tree))


class Filter:
    """A filter that is ready to be installed, again and again by forked processes: all that is left to do is the system call."""

    def __init__(self, program: bytes) -> None:
        """`program`: as `build` makes it."""
        self._instructions = ctypes.create_string_buffer(program, len(program))
        self._program = ctypes.byref(_Program(len(program) // 8, ctypes.addressof(self._instructions)))

    def install(self) -> None:
        """Put the calling thread, and all that it starts, under the filter for good. Sets no_new_privs."""
        linux.set_no_new_privs()
        linux.syscall("seccomp", _SET_MODE_FILTER, 0, self._program)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def _actions(families: tuple[int, ...], allow_ipc: bool, beyond: int, numbers: dict[str, int]) -> dict[int, Block]:
    """What happens at each known number."""
    refused: Block = _ret(_EPERM)
    actions = dict.fromkeys(numbers.values(), refused)
    named: dict[str, Block] = {name: _ret(_RET_ALLOW) for name in _ALLOWED.split()}
    if allow_ipc:
        named.update((name, _ret(_RET_ALLOW)) for name in _IPC.split())
    else:
        named["memfd_create"] = _ret(_ENOSYS)  # so that programs take an unlinked file instead
    named.update((name, _ret(_RET_ERRNO)) for name in _DO_NOTHING.split())
    named.update(_checked(families))
    if beyond:
        named.update(_signals_beyond(beyond))
    actions.update((numbers[name], block) for name, block in named.items() if name in numbers)
    return actions


def _checked(families: tuple[int, ...]) -> dict[str, Block]:
    """What depends on arguments. The kernel reads each of these as 32 bits, so the upper halves don't matter."""
    return {
        "clone3": _ret(_ENOSYS),
        "clone": [
            Instruction(_LD, _low(0)),
            Instruction(_JSET, _NAMESPACES, no=1),
            Instruction(_RET, _EPERM),
            Instruction(_RET, _RET_ALLOW),
        ],
        "socket": _one_of(0, families, _RET_ALLOW, _EAFNOSUPPORT),
        "socketpair": _one_of(0, (socket.AF_UNIX,), _RET_ALLOW, _EAFNOSUPPORT),
        "personality": _one_of(0, _PERSONALITIES, _RET_ALLOW, _EPERM),
        "ioctl": _one_of(1, (_TIOCSTI, _TIOCLINUX), _EPERM, _RET_ALLOW),
        # Only of oneself (0): no kernel check keeps processes of the same user apart here.
        "setpriority": _all_equal((_low(0), _PRIO_PROCESS), (_low(1), 0)),
        "ioprio_set": _all_equal((_low(0), _IOPRIO_WHO_PROCESS), (_low(1), 0)),
        "sched_setscheduler": _all_equal((_low(0), 0)),
        "sched_setparam": _all_equal((_low(0), 0)),
        "sched_setattr": _all_equal((_low(0), 0)),
        # Of others only to read: then the new limit, a pointer, is null.
        "prlimit64": [
            Instruction(_LD, _low(0)),
            Instruction(_JEQ, 0, no=1),
            Instruction(_RET, _RET_ALLOW),
            *_all_equal((_low(2), 0), (_high(2), 0)),
        ],
    }


def _signals_beyond(last: int) -> dict[str, Block]:
    """Ways to signal a process by its number, for all that has a higher one, or a group's with a minus; 0 is one's own group."""
    higher: Block = [
        Instruction(_LD, _low(0)),
        Instruction(_JEQ, 0, yes=2),
        Instruction(_JGE, last + 1, no=2),
        Instruction(_JGE, (1 << 32) - last, yes=1),
        Instruction(_RET, _RET_ALLOW),
        Instruction(_RET, _EPERM),
    ]
    return {
        **dict.fromkeys(("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_open"), higher),
        "pidfd_send_signal": _ret(_EPERM),  # a directory of /proc serves as a descriptor of its process
        "fcntl": _one_of(1, (_F_SETOWN, _F_SETOWN_EX), _EPERM, _RET_ALLOW),
        "ioctl": _one_of(1, (_TIOCSTI, _TIOCLINUX, _FIOSETOWN, _SIOCSPGRP), _EPERM, _RET_ALLOW),
    }


def _low(argument: int) -> int:
    """Where the lower half of an argument lies in `struct seccomp_data`; both machines are little-endian."""
    return 16 + 8 * argument


def _high(argument: int) -> int:
    return _low(argument) + 4


def _ret(action: int) -> Block:
    return (Instruction(_RET, action),)


def _one_of(argument: int, values: Sequence[int], hit: int, miss: int) -> Block:
    tests = [Instruction(_JEQ, value, yes=len(values) - i) for i, value in enumerate(values)]
    return [Instruction(_LD, _low(argument)), *tests, Instruction(_RET, miss), Instruction(_RET, hit)]


def _all_equal(*wanted: tuple[int, int]) -> Block:
    """Allow where each word of `seccomp_data` has its value, else EPERM."""
    tests: list[Instruction] = []
    for i, (word, value) in enumerate(wanted):
        to_refusal = 2 * (len(wanted) - 1 - i) + 1
        tests += [Instruction(_LD, word), Instruction(_JEQ, value, no=to_refusal)]
    return [*tests, Instruction(_RET, _RET_ALLOW), Instruction(_RET, _EPERM)]


def _ranges(actions: dict[int, Block]) -> list[tuple[int, Block]]:
    """The first number of each run of numbers with the same action, ascending from 0 and without an end."""
    unknown = _ret(_ENOSYS)
    ranges: list[tuple[int, Block]] = []
    for number in range(max(actions) + 2):
        block = actions.get(number, unknown)
        if not ranges or ranges[-1][1] != block:
            ranges.append((number, block))
    return ranges


def _tree(ranges: Sequence[tuple[int, Block]]) -> Block:
    """Code that finds the range of the number in the accumulator and does what it says."""
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    lower, upper = _tree(ranges[:middle]), _tree(ranges[middle:])
    first = ranges[middle][0]
    if len(lower) < 256:
        return [Instruction(_JGE, first, yes=len(lower)), *lower, *upper]
    return [Instruction(_JGE, first, no=1), Instruction(_JA, len(lower)), *lower, *upper]
