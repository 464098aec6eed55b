"""What an attack is: a program, and what has to be true of its result."""

from collections.abc import Callable
from dataclasses import dataclass, field

from runnerd import Limits, Result
from runnerd.job import File

ISOLATED = ("strong", "userns", "landlock")
NAMESPACED = ("strong", "userns")

LIMITS = Limits(
    wall_s=20,
    cpu_s=10,
    memory_bytes=256 << 20,
    processes=64,
    open_files=128,
    output_bytes=64 << 10,
    file_bytes=8 << 20,
    files=64,
)

PRELUDE = """\
import ctypes, errno, os, signal, socket, struct, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)

def tried(what, attempt):
    try:
        got = attempt()
    except BaseException as error:
        print("refused", what, type(error).__name__, error, flush=True)
    else:
        print("GOT", what, repr(got)[:300], flush=True)

def call(number, *args):
    ctypes.set_errno(0)
    padded = [ctypes.c_ulong(a) if isinstance(a, int) else a for a in (*args, 0, 0, 0, 0, 0, 0)[:6]]
    if libc.syscall(ctypes.c_long(number), *padded) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return "ok"

"""
"""`tried` prints GOT where an attempt got through, `call` makes a system call by number."""

Holds = Callable[[Result], bool]


@dataclass(frozen=True)
class Attack:
    """A hostile job. In its code, @NAME@ stands for what is planted on the host: see test_attacks.py."""

    name: str
    cases: str
    """Numbers in the list of what others fell for."""
    code: str
    holds: Holds
    levels: tuple[str, ...] = ISOLATED
    """Those at which it has to hold."""
    limits: dict[str, float] = field(default_factory=dict)
    lang: str = "py"
    env: dict[str, str] = field(default_factory=dict)
    args: tuple[str, ...] = ()
    files: tuple[File, ...] = ()

    @property
    def program(self) -> str:
        """The job's code."""
        return PRELUDE + self.code if self.lang == "py" else self.code


def ended(*statuses: str) -> Holds:
    """With one of these statuses."""
    return lambda result: result.status in statuses


def reached(limit: str, *or_statuses: str) -> Holds:
    """This limit; at levels without a cgroup it may also have ended with another status."""

    def holds(result: Result) -> bool:
        if result.status in ("limit", "oom", "timeout") and result.limit == limit:
            return True
        return result.sandbox is not None and result.sandbox.level != "strong" and result.status in or_statuses

    return holds


def said(text: str, *statuses: str) -> Holds:
    """Printed this, and ended well or with one of these statuses."""
    return lambda result: text in result.stdout and result.status in (statuses or ("ok",))


def refused(result: Result) -> bool:
    """All that it tried was refused, and it went on to its end."""
    return result.status == "ok" and "GOT" not in result.stdout and "refused" in result.stdout
