"""The filter: it never kills, refuses what it must, and harmless programs don't notice it."""

import ctypes
import errno
import json
import mmap
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import runnerd
from forked import ending, errno_of, in_child
from runnerd.agent import linux, seccomp, syscalls

NUMBERS = syscalls.numbers()
X86_64 = syscalls.MACHINE == "x86_64"
WAITING = {"pause", "select", "pselect6", "ppoll", "msgrcv"}
"""Wait for ever when called with zeros."""
REFUSED = """
    io_uring_setup io_uring_enter io_uring_register userfaultfd bpf perf_event_open keyctl add_key request_key ptrace
    process_vm_readv process_vm_writev kcmp mount umount2 open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr
    open_tree_attr statmount listmount setns unshare pivot_root chroot open_by_handle_at name_to_handle_at kexec_load
    kexec_file_load init_module finit_module delete_module reboot swapon swapoff acct quotactl quotactl_fd settimeofday
    clock_settime adjtimex clock_adjtime syslog process_madvise pidfd_getfd fanotify_init fanotify_mark memfd_secret
    sethostname setdomainname vhangup lookup_dcookie mbind set_mempolicy migrate_pages move_pages nfsservctl
"""
REFUSED_X86_64 = "iopl ioperm modify_ldt uselib ustat sysfs _sysctl create_module"

_libc = ctypes.CDLL(None, use_errno=True)


def _call(number: int, *args: int) -> int:
    """Make a system call by number, with zeros for what is not given; its errno, 0 where it succeeded."""
    ctypes.set_errno(0)
    padded = [ctypes.c_ulong(arg) for arg in (*args, 0, 0, 0, 0, 0, 0)[:6]]
    return ctypes.get_errno() if _libc.syscall(ctypes.c_long(number), *padded) == -1 else 0


def _filtered(function, *args, **settings):
    def run():
        seccomp.Filter(seccomp.build(**settings)).install()
        return function(*args)

    return in_child(run)


@pytest.fixture(scope="module")
def errnos() -> dict[int, int]:
    """What every number from 0 to 600 gives: an errno, 0, or minus the signal that ended its process."""
    environment = {"PYTHONPATH": str(Path(runnerd.__file__).parent)}
    program = Path(__file__).with_name("every_number.py")
    # Standard input is a pipe: calls like fchmod(0, 0) hit it.
    run = subprocess.run([sys.executable, "-S", program], env=environment, input=b"", capture_output=True, check=True)
    return {int(number): result for number, result in json.loads(run.stdout).items()}


def test_no_number_kills(errnos):
    killed = {number for number, result in errnos.items() if result < 0}
    assert killed <= {NUMBERS.get(name) for name in WAITING}
    assert len(errnos) > 590


def test_unknown_numbers_are_not_implemented(errnos):
    unknown = set(errnos) - set(NUMBERS.values())
    assert len(unknown) > 100
    assert {errnos[number] for number in unknown} == {errno.ENOSYS}


@pytest.mark.parametrize("name", (REFUSED + (REFUSED_X86_64 if X86_64 else "")).split())
def test_refused(errnos, name):
    # as root with all capabilities: it is the filter that says no
    assert errnos[NUMBERS[name]] == errno.EPERM


def test_clone3_falls_back(errnos):
    assert errnos[NUMBERS["clone3"]] == errno.ENOSYS


@pytest.mark.skipif(not X86_64, reason="x32 is a convention of x86_64")
def test_x32_is_not_implemented():
    assert _filtered(_call, syscalls.X32_BIT | NUMBERS["getpid"]) == errno.ENOSYS


def _int_0x80() -> int:
    """getpid() by the i386 convention; its result as the kernel left it in eax."""
    code = b"\x53\xb8\x14\x00\x00\x00\xcd\x80\x5b\xc3"  # push rbx; mov eax, 20; int 0x80; pop rbx; ret
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(code)
    return ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))()


@pytest.mark.skipif(not X86_64, reason="i386 is a convention of x86_64")
def test_i386_is_not_implemented():
    if ending(_int_0x80) < 0:
        pytest.skip("this kernel has no i386 emulation")
    assert _filtered(_int_0x80) == -errno.ENOSYS


NEW_NAMESPACES = [name for name in dir(linux) if name.startswith("CLONE_NEW") and name != "CLONE_NEWTIME"]


@pytest.mark.parametrize("name", NEW_NAMESPACES)
def test_no_new_namespace_by_clone(name):
    flags = getattr(linux, name)
    assert _filtered(errno_of, linux.clone, flags) == errno.EPERM
    assert _filtered(_call, NUMBERS["clone"], flags | 1 << 32) == errno.EPERM


def test_sockets_of_allowed_families_only():
    def families():
        plain = [_call(NUMBERS["socket"], family, socket.SOCK_STREAM) for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)]
        raw = [_call(NUMBERS["socket"], family, socket.SOCK_RAW) for family in (socket.AF_PACKET, 16, 38, 40, 1 << 32 | socket.AF_INET)]
        return plain + raw

    refused = errno.EAFNOSUPPORT
    assert _filtered(families) == [0] + [refused] * 7
    assert _filtered(families, allow_sockets=None) == [refused] * 8
    assert _filtered(families, allow_sockets=(socket.AF_INET, socket.AF_UNIX))[:3] == [0, 0, refused]


def test_socketpair_is_always_there():
    def talk():
        left, right = socket.socketpair()
        with left, right:
            left.sendall(b"hi")
            return right.recv(2), _call(NUMBERS["socketpair"], 30)  # AF_TIPC has pairs as well

    assert _filtered(talk, allow_sockets=None) == (b"hi", errno.EAFNOSUPPORT)


def test_ioctl_cannot_type_for_others():
    def ioctls():
        nr = NUMBERS["ioctl"]
        tries = [(0x5412,), (0x541C,), (1 << 32 | 0x5412,), (0xFFFFFFFF << 32 | 0x541C,), (0x5401,)]
        return [_call(nr, 1000, *request) for request in tries]

    assert _filtered(ioctls) == [errno.EPERM] * 4 + [errno.EBADF]


def test_personality_is_that_of_the_container_engines():
    def personalities():
        return [
            _call(NUMBERS["personality"], value) for value in (0xFFFFFFFF, 0, 8, 0x20000, 0x20008, 0, 0x40000, 0x400000, 1 << 32 | 0x40000)
        ]

    assert _filtered(personalities) == [0] * 6 + [errno.EPERM] * 3


def test_no_influence_on_processes_of_the_same_user():
    def influence(other: int) -> list[int]:
        limit = ctypes.create_string_buffer(struct.pack("QQ", 64, 64))
        address = ctypes.addressof(limit)
        nr = NUMBERS
        return [
            _call(nr["prlimit64"], other, 7, address, 0),
            _call(nr["prlimit64"], other, 7, 0, address),
            _call(nr["prlimit64"], 0, 7, address, 0),
            _call(nr["setpriority"], os.PRIO_PROCESS, other, 1),
            _call(nr["setpriority"], os.PRIO_USER, 0, 1),
            _call(nr["setpriority"], os.PRIO_PROCESS, 0, 1),
            _call(nr["ioprio_set"], 1, other, 0),
            _call(nr["ioprio_set"], 1, 0, 0),
            _call(nr["sched_setscheduler"], other, 0, address),
            _call(nr["sched_setparam"], other, address),
            _call(nr["sched_setattr"], other, address),
        ]

    no = errno.EPERM
    assert _filtered(influence, os.getpid()) == [no, 0, 0, no, no, 0, no, 0, no, no, no]


def test_ipc_only_where_it_is_allowed():
    names = ("shmget", "semget", "msgget")
    assert _filtered(lambda: [_call(NUMBERS[name], -1) for name in names], allow_ipc=False) == [errno.EPERM] * 3
    assert errno.EPERM not in _filtered(lambda: [_call(NUMBERS[name], -1) for name in names])
    assert _filtered(lambda: [_call(NUMBERS["memfd_create"], 0)], allow_ipc=False) == [errno.ENOSYS]
    assert _filtered(lambda: [_call(NUMBERS["memfd_create"], 0)]) == [errno.EFAULT]


def test_sync_writes_out_nothing_and_succeeds():
    # a descriptor that is none: the kernel itself would say EBADF
    assert _filtered(lambda: [_call(NUMBERS["sync"]), _call(NUMBERS["syncfs"], 1000)]) == [0, 0]


def test_the_filter_is_for_good_and_inherited():
    def inner():
        seccomp.Filter(seccomp.build(allow_sockets=(socket.AF_INET,))).install()  # a second one can only take away
        return ending(lambda: os._exit(errno_of(socket.socket)))

    assert _filtered(inner) == errno.EAFNOSUPPORT
    assert _filtered(lambda: Path("/proc/self/status").read_text(), allow_sockets=None).count("NoNewPrivs:\t1") == 1


PROGRAMS = {
    "python": (["/usr/bin/python3", "-c", "import threading, tempfile, subprocess; print('hi')"], "hi\n"),
    "python pool": (["/usr/bin/python3", "-c", "import multiprocessing as m\nwith m.Pool(2) as p: print(p.map(abs, [-1, 2]))"], "[1, 2]\n"),
    "node": (["node", "-e", "console.log('hi')"], "hi\n"),
    "java": (["java", "-version"], ""),
    "bash": (["bash", "-c", "seq 9 | sort -rn | (sleep 0 & wait; head -1)"], "9\n"),
    "sort": (["sort", "--parallel=2", "words"], "a\nb\nc\n"),
    "tar": (["bash", "-c", "tar cf - words | tar tvf - | wc -l"], "1\n"),
    "perl": (["perl", "-e", "print 6 * 7"], "42"),
    "awk": (["awk", "BEGIN { print 6 * 7 }"], "42\n"),
    "date": (["bash", "-c", "nice -n 3 timeout 20 date +%Z -u"], "UTC\n"),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_harmless_programs_run(name, tmp_path):
    argv, expected = PROGRAMS[name]
    if shutil.which(argv[0]) is None:
        pytest.skip(f"{argv[0]} is not installed")
    (tmp_path / "words").write_text("b\nc\na\n")
    run = _filtered(lambda: subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False))
    assert (run.returncode, run.stdout) == (0, expected), run.stderr


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
def test_a_compiler_and_its_program_run(tmp_path):
    (tmp_path / "hello.c").write_text('#include <stdio.h>\nint main(void) { puts("hi"); return 3; }\n')

    def compile_and_run():
        subprocess.run(["gcc", "-O2", "-o", "hello", "hello.c"], cwd=tmp_path, check=True)
        return subprocess.run(["./hello"], cwd=tmp_path, capture_output=True, check=False)

    run = _filtered(compile_and_run)
    assert (run.returncode, run.stdout) == (3, b"hi\n")


# The filter as data: the same questions for the machine that is not at hand


def _decide(program: bytes, machine: str, number: int, args: tuple[int, ...] = (), arch: int | None = None) -> tuple[int, int]:
    """Run the filter as the kernel would; its decision, and how many instructions it took."""
    data = struct.pack("=IIQ6Q", number, arch or syscalls.AUDIT_ARCHES[machine], 0, *(args + (0,) * 6)[:6])
    code = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    at = accumulator = steps = 0
    while True:
        operation, yes, no, k = code[at]
        at, steps = at + 1, steps + 1
        if operation == 0x06:
            return k, steps
        if operation == 0x20:
            accumulator = struct.unpack_from("=I", data, k)[0]
        elif operation == 0x05:
            at += k
        else:
            holds = {0x15: accumulator == k, 0x35: accumulator >= k, 0x45: bool(accumulator & k)}[operation]
            at += yes if holds else no


@pytest.mark.parametrize("machine", syscalls.NUMBERS)
def test_every_decision(machine):
    program = seccomp.build(machine=machine)
    numbers = syscalls.numbers(machine)
    allowed = set((seccomp._ALLOWED + seccomp._IPC).split())
    allowed |= {"socketpair", "socket", "ioctl", "personality", "clone", "setpriority", "prlimit64", "ioprio_set"}
    allowed |= {"sched_setscheduler", "sched_setparam", "sched_setattr"}
    with_arguments = {"socket": (1,), "socketpair": (1,), "ioprio_set": (1,)}
    for name, number in numbers.items():
        decision, steps = _decide(program, machine, number, with_arguments.get(name, ()))
        expected = {"clone3": 0x50000 | errno.ENOSYS, "sync": 0x50000, "syncfs": 0x50000}
        assert decision == expected.get(name, 0x7FFF0000 if name in allowed else 0x50000 | errno.EPERM), name
        assert steps <= 20, name
    for number in (470, 999, 0x7FFFFFFF, 0x40000000, 0xFFFFFFFF):
        assert _decide(program, machine, number)[0] == 0x50000 | errno.ENOSYS
    assert _decide(program, machine, numbers["getpid"], arch=0x40000003)[0] == 0x50000 | errno.ENOSYS
    assert _decide(program, machine, numbers["clone"], (linux.CLONE_NEWUSER,))[0] == 0x50000 | errno.EPERM
    assert len(program) // 8 < 300


def test_every_name_is_known():
    known = set().union(*syscalls.NUMBERS.values())
    names = [seccomp._ALLOWED, seccomp._IPC, seccomp._DO_NOTHING, REFUSED, REFUSED_X86_64, *seccomp._checked((1,))]
    assert set(" ".join(names).split()) <= known


@pytest.mark.parametrize("header", ["x86_64-linux-gnu/asm/unistd_64.h", "asm-generic/unistd.h"])
def test_numbers_are_the_kernels(header):
    path = Path("/usr/include", header)
    if not path.exists():
        pytest.skip("the kernel's headers are not installed")
    ours = syscalls.NUMBERS["x86_64" if "x86_64" in header else "aarch64"]
    theirs = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", path.read_text()))
    theirs = {name: int(number) for name, number in theirs.items()}
    assert {name: theirs[name] for name in ours if name in theirs} == {name: ours[name] for name in ours if name in theirs}
    assert len(set(ours) & set(theirs)) > 300


def test_an_unknown_machine_is_named():
    with pytest.raises(OSError, match="riscv64"):
        syscalls.numbers("riscv64")
