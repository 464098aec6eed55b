"""An interpreter that lives on: it runs one program, waits, stopped by its cell, and runs the next in the same namespace.

What comes at an interpreter's end does not come here: exit handlers do not run. Each program has standard input and output,
arguments, environment, directory, timers and CPU time of its own; all else is as the last one left it. While it waits, another
child of the cell collects its files. Its request, once it goes on, ahead of the files that it writes itself:

    run {file, args, env, stream, cpu_s, state, fds, files, remove, …}    with descriptors, as for a first one
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import calling, program, variables, writing
from .ending import CONTROL, say_done, wait_to_be_killed
from .frames import Header, pack

if TYPE_CHECKING:
    from .child import Requests
    from .slate import Slate

_getpid, _chdir, _getcwd, _dup2, _close, _open = os.getpid, os.chdir, os.getcwd, os.dup2, os.close, os.open
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
_environ = os.environ
Environment = Callable[[dict[str, str]], dict[str, str]]
"""From the variables that a job asks for to all that it gets."""


def live(request: Header, requests: Requests, slate: Slate | None, namespace: dict[str, Any], environment: Environment) -> int:
    """Run the program that is asked for, then one after the other those that follow. Returns the exit code of the last."""
    pid, workspace = _getpid(), _getcwd()
    streams = (sys.stdin, sys.stdout, sys.stderr)
    _limit_cpu(request["limits"]["cpu_s"])
    while True:
        state = request["state"]
        code, lives = program.run_on(os.path.join(workspace, request["file"]), namespace)
        say_done(code, clean=False, lives=lives)
        if slate is not None:
            if state["most"] and (code == 0 or state["on_error"]):
                variables.give(namespace if _getpid() == pid else None, state["most"], CONTROL, slate)
            slate.close()
        if not lives:
            wait_to_be_killed()
            return code
        frame = requests.next()
        if frame is None:
            return code
        request = frame[0]
        slate = requests.slate() if request.get("state") else None
        _environ.clear()
        _environ.update(environment(request["env"]))
        _renew(request, requests, workspace, streams)
        changed = writing.take_files(request, requests)
        program.enter(os.path.join(workspace, request["file"]), request["args"], request["stream"], namespace)
        requests.control.sendall(pack({"type": "began", "changed": changed}))


def _renew(request: Header, requests: Requests, workspace: str, streams: tuple[Any, Any, Any]) -> None:
    """Give the next program what is its own."""
    for timer in _TIMERS:
        signal.setitimer(timer, 0)
    signal.alarm(0)
    _chdir(workspace)
    _limit_cpu(request["cpu_s"])
    calling.renew()
    if 0 not in requests.place(request):
        null = _open(os.devnull, os.O_RDONLY)
        _dup2(null, 0)
        _close(null)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - afresh, for what the last one had read ahead
    _, sys.stdout, sys.stderr = streams
    program.forget_modules(workspace)


def _limit_cpu(seconds: int) -> None:
    """So much CPU time from now on. The program could raise it again: then it has what its wall time gives, as any that forks."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = resource.getrlimit(resource.RLIMIT_CPU)[1]
    wanted = int(used.ru_utime + used.ru_stime) + 1 + seconds
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))
