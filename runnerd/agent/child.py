"""The standby child of a cell: forked ahead of its job, locked down and warmed, then used once.

It takes one request from its control socket and becomes it: a program (`run`), or the collection of the files that
a program left (`collect`). It reads everything as the job's user, inside the job's root: no path is ever opened
with more rights than the job has. An interpreter that lives on takes further programs, see again.py.

    to the child                              from the child
    run     {argv | python, file, files, …}   ready   {}
    file    {name} body, more: true           failed  {reason | limit}    before the program runs
    state   {size}                            loading {}                  all that was to come is there, a snapshot among it
    collect {inputs, stamp, …}                began   {changed, …}        the program runs: only where the request says `begins`
                                              done    {code, dirty, …}    a warm program ended; it may only choose its own code
                                              taken   {size | problem, …} a snapshot of that size is where one is handed over
                                              file, skipped, collected    see collect.py

A request with `state` comes with memory to hand snapshots over in, as its last descriptor, see slate.py.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
from typing import Any, NamedTuple, NoReturn

from . import again, collect, ending, landlock, linux, pages, preload, program, seccomp, variables, writing
from .ending import CONTROL
from .frames import Header, Unpacker, pack
from .options import POD, PROCESS, STRONG, USERNS, USUAL_ENV, Options
from .slate import Slate

_getpid, _dup2, _close, _set_inheritable = os.getpid, os.dup2, os.close, os.set_inheritable
RULESET = 4
"""Descriptor of the Landlock ruleset, until it is enforced."""
READY = pack({"type": "ready"})
MOST_FDS = 4
"""Descriptors that come with a request: standard input, two for calls of tools, and one for snapshots."""
CELL_PROCESSES = 4
"""At most so many processes and threads per cell are our own, and the agent's."""
OOM_SCORE = 500
"""The kernel ends jobs before anything of ours."""
OOM_SCORE_IN_POD = 1000
"""There the agent has a score already, by the pod's class of service."""


class Ground(NamedTuple):
    """What every child of a master stands on."""

    filter: seccomp.Filter
    pages: pages.Pages[int]
    """Pages that a job writes to in any case."""


def main(options: Options, slot: int, ground: Ground, ruleset: landlock.Ruleset | None, stdout: int, stderr: int, control: int) -> NoReturn:
    """Be the child and end; the descriptors are its output pipes and its control socket. Never returns."""
    code = 125
    try:
        code = be(options, slot, ground, ruleset, stdout, stderr, control)
    finally:
        os._exit(code)


def be(options: Options, slot: int, ground: Ground, ruleset: landlock.Ruleset | None, stdout: int, stderr: int, control: int) -> int:
    """Be the child. Returns its exit code."""
    lower_priority(options)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.dup2(control, CONTROL, inheritable=False)
    if ruleset is not None:
        os.dup2(ruleset.fd, RULESET, inheritable=False)
        ruleset = landlock.Ruleset(RULESET, ruleset.flags)
    linux.close_range(CONTROL + 1 if ruleset is None else RULESET + 1)
    lock_down(options, slot, ground.filter, ruleset)
    preload.after_fork()
    os.chdir(options.workspace(slot))
    return serve(options, slot, socket.socket(fileno=CONTROL))


def lower_priority(options: Options) -> None:
    """From that of PID 1 to that of jobs."""
    if options.level == STRONG:
        os.setpriority(os.PRIO_PROCESS, 0, 0)


def lock_down(options: Options, slot: int, job_filter: seccomp.Filter, ruleset: landlock.Ruleset | None) -> None:
    """Give up everything that a job must not have, for good."""
    os.setsid()
    if options.namespaced:
        _write("/proc/self/oom_score_adj", str(OOM_SCORE))
    uid = options.uid_base + slot
    if options.level != USERNS and os.getuid() == 0:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    linux.drop_capabilities()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    linux.set_no_new_privs()
    if options.level == PROCESS:
        linux.set_pdeathsig(signal.SIGKILL)
        return
    _forget_keys(options)
    if not options.namespaced:
        linux.set_pdeathsig(signal.SIGKILL)
    # A change of user id has made the process undumpable, and its own /proc files unreadable to itself.
    linux.set_dumpable(options.alone)
    if options.level == POD:
        _write("/proc/self/oom_score_adj", str(OOM_SCORE_IN_POD))
    if ruleset is not None:
        ruleset.enforce()
        ruleset.close()
    job_filter.install()


def _forget_keys(options: Options) -> None:
    try:
        linux.keyctl_join_session()
    except OSError:
        if options.level != POD:  # container engines refuse it, and every use of keys with it
            raise


def _write(path: str, text: str) -> None:
    try:  # no `open`: a text file is a page of memory for each of the hundred objects behind it
        fd = os.open(path, os.O_WRONLY)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.ENOENT):
            raise
        return
    try:
        os.write(fd, text.encode())
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM):
            raise
    finally:
        os.close(fd)


class Requests:
    """Frames from the control socket, with the descriptors that came along."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self._unpacker = Unpacker()
        self._frames: list[tuple[Header, bytes]] = []
        self.fds: list[int] = []
        self.program: bytes | None = None
        """The warm program itself, where its file came in one piece."""

    def next(self) -> tuple[Header, bytes] | None:
        """The next frame; None where the agent hung up."""
        while not self._frames:
            data, fds, _, _ = socket.recv_fds(self.control, 1 << 16, MOST_FDS)
            self.fds += fds
            if not data:
                return None
            self._frames = self._unpacker.feed(data)
        return self._frames.pop(0)

    def slate(self) -> Slate:
        """Where snapshots are handed over, for a request with some."""
        fd = self.fds.pop()
        _set_inheritable(fd, False)
        return Slate(fd)

    def place(self, request: Header) -> list[int]:
        """Put the descriptors that came with a request where it says; returns where."""
        numbers: list[int] = request.get("fds", [])
        for number in numbers:
            fd = self.fds.pop(0)
            _dup2(fd, number)
            _close(fd)
        return numbers


def serve(options: Options, slot: int, control: socket.socket) -> int:
    """Say that the child is ready, take one request and become it. Returns the exit code of what runs in this interpreter."""
    requests = Requests(control)
    _walk_through()
    control.sendall(READY)
    first = requests.next()
    if first is None:
        return 0
    request = first[0]
    if request["type"] == "collect":
        collect.collect(request, control)
        return 0
    free_inodes = os.statvfs(".").f_ffree
    slate = requests.slate() if request.get("state") else None
    try:
        changed = writing.take_files(request, requests)
        state = None if slate is None else _take_state(request, requests, slate)
    except OSError as error:
        control.sendall(pack({"type": "failed", **writing.failure(error)}))
        return 125
    if request.get("fds"):
        requests.place(request)
    began = _Began(control, changed, state) if request.get("begins") else None
    return _become(request, options, slot, requests, free_inodes, began, slate)


USUAL: Header = {
    "type": "run",
    "python": True,
    "argv": None,
    "file": "main.py",
    "args": [],
    "env": USUAL_ENV,
    "stream": False,
    "stamp": 1_700_000_000_000_000_000,
    "files": 1,
    "limits": {"open_files": 1024, "processes": 512, "cpu_s": 30, "file_bytes": 10_485_760},
}
"""A request like many."""
_SAMPLE = pack(USUAL) + pack({"name": "main.py"}, b'print("hi")\n')


def _walk_through() -> None:
    """Read and compile a program as if it had come: what that takes of memory and of code is in place then."""
    unpacker = Unpacker()
    frames = unpacker.feed(_SAMPLE)
    compile(frames[1][1], frames[1][0]["name"], "exec", dont_inherit=True)
    os.statvfs(".")


class _Began:
    """What a program that the agent waits for says when it begins."""

    def __init__(self, control: socket.socket, changed: int, state: bytes | None) -> None:
        self._control = control
        self._changed = changed
        self._state = state

    def say(self, namespace: dict[str, Any] | None = None) -> None:
        """Say it, once earlier variables are in the namespace."""
        header: Header = {"type": "began", "changed": self._changed}
        if self._state is not None and namespace is not None:
            header.update(variables.bring(self._state, namespace, self._control, self._changed))
            self._state = None
        self._control.sendall(pack(header))


def _take_state(request: Header, requests: Requests, slate: Slate) -> bytes | None:
    """The snapshot to load, None for none."""
    state: Header = request["state"]
    if not state["load"]:
        return None
    frame = requests.next()
    if frame is None:
        raise OSError(errno.EPIPE, "the agent hung up")
    snapshot = slate.read(0, frame[0]["size"])
    if state.get("stays"):
        variables.brought.remember(snapshot)
    return snapshot


def _become(
    request: Header, options: Options, slot: int, requests: Requests, free_inodes: int, began: _Began | None, slate: Slate | None
) -> int:
    """Run the program in this interpreter, or replace it by another."""
    limits = request["limits"]
    _limit(resource.RLIMIT_NOFILE, limits["open_files"])
    _limit(resource.RLIMIT_FSIZE, limits["file_bytes"])
    if options.level == USERNS:  # counted per user id, and each cell's user namespace counts for itself
        _limit(resource.RLIMIT_NPROC, limits["processes"])
    elif options.own_kernel:
        _limit(resource.RLIMIT_NPROC, limits["processes"] + CELL_PROCESSES)
    elif options.level not in (STRONG, POD):  # one count for all cells and the agent: it stops a bomb, and is no limit of one job
        _limit(resource.RLIMIT_NPROC, limits["processes"] + CELL_PROCESSES * options.cells)
    lives_on = request.get("lives_on", False)
    if not lives_on:
        resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu_s"], limits["cpu_s"] + 1))
    if request["python"]:
        if request["env"] != options.warm_env:
            set_environment(options, slot, request["env"])
        path = f"{options.workspace(slot)}/{request['file']}"
        namespace = program.namespace(path, request["args"], request["stream"])
        state: Header = request.get("state", {})
        pid = os.getpid() if state else 0
        if began is not None:
            began.say(namespace)
        if lives_on:
            return again.live(request, requests, slate, namespace, lambda asked: _environment(options, slot, asked))
        code = program.run(path, namespace, requests.program)
        ending.say_done(code, _only_one_file(request["file"], options.workspace(slot), free_inodes))
        if slate is not None and state["most"] and (code == 0 or state["on_error"]):
            variables.give(namespace if _getpid() == pid else None, state["most"], CONTROL, slate)
        ending.wait_to_be_killed()
        return code
    if began is not None:
        began.say()
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # Python ignores them, and what is ignored stays so across exec
    argv = request["argv"]
    try:
        os.execvpe(argv[0], argv, _environment(options, slot, request["env"]))  # noqa: S606 - no shell wanted
    except (OSError, ValueError) as error:
        requests.control.sendall(pack({"type": "failed", "reason": f"could not start {argv[0]!r}: {error}"}))
    return 125


def set_environment(options: Options, slot: int, asked: dict[str, str]) -> None:
    """Give this interpreter the variables of a program that asks for these."""
    os.environ.clear()
    os.environ.update(_environment(options, slot, asked))


def _environment(options: Options, slot: int, asked: dict[str, str]) -> dict[str, str]:
    """All variables of the program. What an image has on its PATH comes after what every sandbox has."""
    env = {**options.env, "HOME": options.tmp(slot), "TMPDIR": options.tmp(slot), **asked}
    paths = f"{asked['PATH']}:{options.env['PATH']}".split(":") if "PATH" in asked and "PATH" in options.env else []
    return {**env, "PATH": ":".join(dict.fromkeys(paths))} if paths else env


def _only_one_file(name: str, directory: str, free_inodes: int) -> bool:
    """Whether there is nothing but the program. One that lies about it hides its own files from its own result."""
    try:
        return free_inodes - os.statvfs(directory).f_ffree == 1 and os.listdir(directory) == [name]
    except BaseException:  # noqa: BLE001 - the program may have replaced any of these functions
        return False


def _limit(kind: int, value: Any) -> None:
    most = resource.getrlimit(kind)[1]
    limit = int(value) if most == resource.RLIM_INFINITY else min(int(value), most)
    resource.setrlimit(kind, (limit, limit))
