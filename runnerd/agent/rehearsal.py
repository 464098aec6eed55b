"""Two jobs before there are any, in processes of their own, to learn which pages of memory a job writes to in any case.

What only one of them writes to, most jobs do not: copying it ahead would cost each of them more than it saves the others.
"""

from __future__ import annotations

import contextlib
import os
import socket

from . import child, forks, linux, pages, tree
from .ending import CONTROL
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


def pages_of_a_job(options: Options) -> pages.Pages[int]:
    """Fork and run a job there, twice; returns the ranges of pages that both made their own, none where that can't be learnt."""
    rehearsed = [_rehearsed(options, program) for program in (_SHORTEST, _LIKE_MANY)]  # both first: what comes between writes, too
    shortest, like_many = (pagemap.gained() if pagemap is not None else set() for pagemap in rehearsed)
    return pages.ranges(shortest & like_many)


def _rehearsed(options: Options, program: bytes) -> pages.PageMap | None:
    request = pack({**_REQUEST, "env": options.warm_env}) + pack({"name": _NAME}, program)
    pagemap = pages.PageMap()
    pid = forks.fork()
    if pid == 0:
        code = 1
        try:
            _rehearse(options, pagemap, request)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if not options.alone:
        tree.remove(options.workspace(0))
    elif not options.namespaced:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(options.workspace(0), _NAME))
    return pagemap if status == 0 else None


def _rehearse(options: Options, pagemap: pages.PageMap, request: bytes) -> None:
    _enter_workspace(options)
    ours, theirs = socket.socketpair()
    theirs.sendall(request)
    theirs.shutdown(socket.SHUT_WR)
    os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
    os.dup2(ours.fileno(), CONTROL)
    control = socket.socket(fileno=CONTROL)  # kept open to the end: to close it would take pages that no job needs
    pagemap.before()
    child.serve(options, 0, control)
    pagemap.after()


def _enter_workspace(options: Options) -> None:
    directory = options.workspace(0)
    if options.namespaced:
        linux.unshare(linux.CLONE_NEWNS)
        linux.mount("tmpfs", directory, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "size=1m")
    else:
        os.makedirs(directory, exist_ok=True)
    os.chdir(directory)
