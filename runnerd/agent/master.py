"""The master: an interpreter with everything imported, from which the PID 1 of every cell is forked.

It is a program of its own, started afresh by the agent: nothing of the agent's memory is in it, and it never sees a
job. A new master has new addresses and a new hash secret. In a pod there is one job, or one tenant, and one cell: there it is
forked from the agent, which has no secret, and becomes that cell itself.

    from the agent                     to the agent
    {slot, watch} + descriptors        {ready, python}    once
                                       {pid} | {error}    for each request
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from typing import Any, NoReturn

from . import calling, cell, child, forks, linux, pages, preload, program, rehearsal, root, seccomp, snapshot
from .options import NAMESPACED, POD, STRONG, USERNS, USUAL_ENV, Options
from .orders import CONTROL, MODULES

MOST_FDS = 8


def main(options: Options) -> None:
    """Be the master, with descriptor 3 as its control socket, until the agent hangs up."""
    control = socket.socket(fileno=CONTROL)
    try:
        ground = _prepare(options)
    except (OSError, ImportError, RuntimeError, ValueError) as error:
        _send(control, {"error": f"{type(error).__name__}: {error}"})
        return
    _send(control, {"ready": True, "python": sys.version.split()[0]})
    while True:
        message, fds, _, _ = socket.recv_fds(control, 4096, MOST_FDS)
        if not message:
            return
        if options.level == POD:  # there will be one cell: it is this process
            _send(control, {"pid": os.getpid()})
            _be_cell(options, json.loads(message), fds, control, ground)
        try:
            pid = _fork_cell(options, json.loads(message), fds, control, ground)
            _send(control, {"pid": pid})
        except OSError as error:
            _send(control, {"error": str(error)})
        for fd in fds:
            os.close(fd)


def _prepare(options: Options) -> child.Ground:
    os.environ.clear()
    os.environ.update(USUAL_ENV, HOME="/tmp", TMPDIR="/tmp")  # noqa: S108
    os.umask(0o022)
    linux.set_name("runnerd-master")
    linux.set_pdeathsig(signal.SIGKILL)
    archive = _forget_command_line()
    with forks.skipping_hooks():
        preload.standard(options.preload)
        snapshot.import_ahead(os.path.join(os.path.dirname(archive), MODULES))  # as long as its files are within reach
    uid, gid = os.getuid(), os.getgid()
    if options.level == USERNS:
        linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWNS | linux.CLONE_NEWUTS)
        cell.map_ids(uid, gid)
    elif options.level == STRONG:
        linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWUTS)
    if options.namespaced:
        linux.sethostname("sandbox")
        root.build(options, as_root=options.level == STRONG)
        linux.mount("tmpfs", "/tmp", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "size=16m")  # noqa: S108
    program.hide_agent()
    sys.modules[calling.NAME] = calling
    with forks.skipping_hooks():
        preload.load(options.preload, options.tmp(0) if options.alone else options.scratch, options.single_use)
    sockets = (socket.AF_UNIX,) if options.namespaced else None  # at level `pod` the cell makes a filter of its own
    # Without an IPC namespace System V objects would be shared by all jobs, and stay on the host; without a cgroup their memory,
    # and that of a memfd, would count nowhere. Both are there at `strong`.
    job_filter = seccomp.Filter(seccomp.build(allow_sockets=sockets, allow_ipc=options.level == STRONG))
    # Two rehearsals cost more than one job can save.
    return child.Ground(job_filter, pages.NONE if options.single_use else rehearsal.pages_of_a_job(options, job_filter))


def _forget_command_line() -> str:
    """The agent's archive is neither on the job's sys.path nor within reach of its root. Returns its path."""
    archive = sys.path[0]
    sys.path[:] = [path for path in sys.path if path != archive]
    sys.path_importer_cache.pop(archive, None)
    sys.argv = [""]
    sys.dont_write_bytecode = True
    return archive


def _fork_cell(options: Options, request: dict[str, Any], fds: list[int], control: socket.socket, ground: child.Ground) -> int:
    flags = 0
    if options.level in NAMESPACED:
        flags = linux.CLONE_NEWNS | linux.CLONE_NEWPID | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS | linux.CLONE_NEWNET
    if options.level == USERNS:
        flags |= linux.CLONE_NEWUSER
    pid = linux.clone(flags | linux.CLONE_PARENT)
    if pid == 0:
        _be_cell(options, request, fds, control, ground)
    return pid


def _be_cell(options: Options, request: dict[str, Any], fds: list[int], control: socket.socket, ground: child.Ground) -> NoReturn:
    try:
        control.close()
        channel = socket.socket(fileno=fds[0])
        cell.start(options, request["slot"], channel, fds[1:], request["watch"], ground)
    except BaseException as error:  # noqa: BLE001 - nothing is above us: the agent reads the text and sees us end
        os.write(2, f"cell {request['slot']}: {type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(121)


def _send(control: socket.socket, message: dict[str, Any]) -> None:
    control.sendmsg([json.dumps(message).encode()])
