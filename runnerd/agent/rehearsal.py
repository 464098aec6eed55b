"""Two jobs before there are any, in processes of their own, to learn which pages of memory a job writes to in any case.

What only one of them writes to, most jobs do not: copying it ahead would cost each of them more than it saves the others.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable

from . import child, forks, linux, pages, reach, seccomp, tree
from .frames import pack
from .options import Options

_NAME = "rehearsal.py"
_SHORTEST = b'print("hi")\n'
_LIKE_MANY = b'''"""A program like many."""
import json, math, sys

class Point:
    def __init__(self, x, y):
        self.x, self.y = x, y

def distance(points):
    return sum(math.hypot(p.x, p.y) for p in points)

try:
    text = json.dumps({"sum": distance([Point(i, i + 1) for i in range(50)]), "words": "a b c".split()})
    print("hi", f"{len(text):>5}", flush=True)
except ValueError as error:
    print(error, file=sys.stderr)
'''
_REQUEST = {**child.USUAL, "file": _NAME, "args": ["one", "two"]}


def pages_of_a_job(options: Options, job_filter: seccomp.Filter) -> pages.Pages[int]:
    """Fork and run a job there, twice; returns the ranges of pages that both made their own, none where that can't be learnt."""
    ground = child.Ground(job_filter, pages.NONE)
    rehearsed = [_rehearsed(options, ground, program) for program in (_SHORTEST, _LIKE_MANY)]  # both first: what comes between writes, too
    shortest, like_many = (pagemap.gained() if pagemap is not None else set() for pagemap in rehearsed)
    return pages.ranges(shortest & like_many)


def _rehearsed(options: Options, ground: child.Ground, program: bytes) -> pages.PageMap | None:
    request = pack({**_REQUEST, "env": options.warm_env}) + pack({"name": _NAME}, program)
    pagemap = pages.PageMap()
    succeeded = _in_a_fork(lambda: _rehearse(options, ground, pagemap, request))
    if not options.alone:
        tree.remove(options.workspace(0))
    elif not options.namespaced:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(options.workspace(0), _NAME))
    return pagemap if succeeded else None


def _in_a_fork(action: Callable[[], None]) -> bool:
    """Whether it succeeded."""
    pid = forks.fork()
    if pid == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return status == 0


def _rehearse(options: Options, ground: child.Ground, pagemap: pages.PageMap, request: bytes) -> None:
    """Be the cell of the child that rehearses: what is only done here is no part of what it writes to."""
    _make_workspace(options)
    ours, theirs = socket.socketpair()
    theirs.sendall(request)
    theirs.shutdown(socket.SHUT_WR)
    null = os.open("/dev/null", os.O_WRONLY)
    own = reach.ruleset(options, 0)

    def act() -> None:
        # Its own standard input, which stays open until the end. To open it later would not be allowed.
        os.dup2(os.open("/proc/self/pagemap", os.O_RDONLY), 0)
        child.be(options, 0, ground, own, null, null, ours.fileno())
        pagemap.note(0)

    if not _in_a_fork(act):
        raise OSError(errno.ECHILD, "the rehearsal failed")


def _make_workspace(options: Options) -> None:
    directory = options.workspace(0)
    if options.namespaced:
        linux.unshare(linux.CLONE_NEWNS)
        linux.mount("tmpfs", directory, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "size=1m,mode=1777")
    elif not options.alone:
        os.makedirs(directory, exist_ok=True)
        if os.getuid() == 0:
            os.chown(directory, options.uid_base, options.uid_base)
