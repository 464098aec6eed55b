"""Going through the motions of a job before there is one.

A forked process copies a page of memory when it first writes to it, and counting a reference is writing. A standby
child that has read a request, written a file, run a program and told its end once has those pages, and its allocator has
the memory for the next time; the job then runs without waiting for either.
"""

from __future__ import annotations

import os
import resource
import sys

from . import program
from .frames import Unpacker, pack

ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/tmp", "TMPDIR": "/tmp"}  # noqa: S108
NAME = "rehearsal.py"
STAMP = 1_700_000_000_000_000_000
REQUEST = {
    "type": "run",
    "python": True,
    "argv": None,
    "file": NAME,
    "args": ["one", "two"],
    "env": ENV,
    "stream": False,
    "stamp": STAMP,
    "files": 1,
    "limits": {"open_files": 1024, "processes": 512, "cpu_s": 30, "file_bytes": 10_485_760},
}
PROGRAM = b'''"""A program like many."""
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


def rehearse(directory: str) -> None:
    """Do as a job does in `directory`, the current one, and leave nothing."""
    name = os.path.join(directory, NAME)
    frames = Unpacker().feed(pack(REQUEST) + pack({"name": name}, PROGRAM))
    fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o755)
    try:
        os.write(fd, frames[1][1])
        os.utime(fd, ns=(STAMP, STAMP))
    finally:
        os.close(fd)
    for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC, resource.RLIMIT_CPU):
        resource.setrlimit(kind, resource.getrlimit(kind))
    os.environ.update(ENV)
    stdout, null = os.dup(1), os.open("/dev/null", os.O_WRONLY)
    os.dup2(null, 1)
    try:
        program.execute(name, {"__name__": "__main__", "__file__": name})
        sys.stdout.flush()
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
        os.close(null)
        os.unlink(name)
    pack({"type": "done", "code": 0})
