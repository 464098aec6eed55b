"""Writing a job's files, from inside its sandbox and as its user; where an interpreter lives on, whatever earlier programs replaced."""

from __future__ import annotations

import contextlib
import errno
import os
from os import close as _close
from os import fstat as _fstat
from os import open as _open
from os import unlink as _unlink
from os import utime as _utime
from os import write as _write
from typing import TYPE_CHECKING

from .frames import Header

if TYPE_CHECKING:
    from .child import Requests


def take_files(request: Header, requests: Requests) -> int:
    """Write the job's files, all with the same time: what still has it at the end was not touched.

    In a workspace that an earlier job has used, `remove` goes first, and what has the name of a file makes way.
    Returns when the last of them was changed, by the clock that nobody can set (ctime, in ns), where the agent wants to know.
    """
    stamp = request["stamp"]
    begins = request.get("begins", False)
    used = "remove" in request
    for name in request.get("remove", ()):
        _remove(name)
    changed = 0
    for _ in range(request["files"]):
        fd = -1
        try:
            more = True
            while more:
                frame = requests.next()
                if frame is None:
                    raise OSError(errno.EPIPE, "the agent hung up")
                header, body = frame
                if fd < 0:
                    fd = _create(header["name"], used)
                    if header["name"] == request["file"] and not header.get("more", False):
                        requests.program = body
                while body:
                    body = body[_write(fd, body) :]
                more = header.get("more", False)
            _utime(fd, ns=(stamp, stamp))
            if begins:
                changed = max(changed, _fstat(fd).st_ctime_ns)
        finally:
            if fd >= 0:
                _close(fd)
    return changed


def failure(error: OSError) -> Header:
    """What to say of a file that could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return {"limit": "workspace_bytes"}
    return {"reason": f"could not write {error.filename!r}: {error.strerror}"}


def _create(name: str, replace: bool) -> int:
    """A new file below the current directory, and the directories above it."""
    if "/" in name:
        os.makedirs(os.path.dirname(name), exist_ok=True)
    if replace:
        with contextlib.suppress(FileNotFoundError):
            _unlink(name)
    return _open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o755)


def _remove(name: str) -> None:
    """Remove a file, where it is one, and the directories above it that are empty then."""
    with contextlib.suppress(OSError):
        _unlink(name)
    with contextlib.suppress(OSError):
        if "/" in name:
            os.removedirs(os.path.dirname(name))
