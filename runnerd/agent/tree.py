"""Removing what a job has left in a directory, however deep it is, whatever modes it has.

No recursion and no long paths: every directory is moved to the top before it is looked into, so that nothing is ever
more than two levels deep. Links are removed and not followed. The job's processes must be gone.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(path: str) -> None:
    """Remove a directory with all that is in it; nothing happens where there is none. Raises OSError."""
    try:
        if stat.S_ISLNK(os.lstat(path).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, "a link stands in the place of a directory", path)
        os.chmod(path, 0o700)
        empty(path)
        os.rmdir(path)
    except FileNotFoundError:
        pass


def empty(path: str) -> None:
    """Remove all that is in a directory. Raises OSError."""
    top = os.open(path, _FLAGS)
    try:
        names = _new_names()
        ahead = list(_clear(top, top, names))
        while ahead:
            name = ahead.pop()
            directory = os.open(name, _FLAGS, dir_fd=top)
            try:
                ahead += _clear(directory, top, names)
            finally:
                os.close(directory)
            os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)


def _new_names() -> Iterator[str]:
    """Names that nothing in the directory has: a job can't guess them."""
    prefix, number = secrets.token_hex(16), 0
    while True:
        number += 1
        yield f"{prefix}-{number}"


def _clear(directory: int, top: int, names: Iterator[str]) -> list[str]:
    """Unlink the files of a directory and move its directories to the top; returns their names there."""
    moved: set[str] = set()
    with os.scandir(directory) as entries:
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.name, dir_fd=directory)
            elif entry.name not in moved:  # what was just moved within the top may be listed once more
                name = next(names)
                os.chmod(entry.name, 0o700, dir_fd=directory)
                os.rename(entry.name, name, src_dir_fd=directory, dst_dir_fd=top)
                moved.add(name)
    return sorted(moved)
