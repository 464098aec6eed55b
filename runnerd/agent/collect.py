"""Collecting the files that a job left: from inside its sandbox, as its user, once all of its processes are gone.

Regular files only, found and opened relative to directory descriptors and never through a symlink; every other thing,
and every file over a limit, is named in a `skipped` frame.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from typing import Any

from .frames import CHUNK, Header, pack

DEPTH = 64
"""Directories below each other that are looked into."""
FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def collect(request: Header, control: socket.socket) -> None:
    """Send the files of the current directory that are new or changed, then `collected`.

    `inputs` maps the names of files that were there before to their sizes; they had the time `stamp`, in nanoseconds.
    `changed`, where it is not 0, is when the last of them was written, by the clock that no program can set back (ctime):
    then a file counts as changed even where its size and time were made the old ones. Only what happens in the same tick
    of that clock (4 ms at most) as the writing of the inputs may go unnoticed.

    With `restamp`, for a workspace that another job will use: what is sent gets the time `stamp`, so that it counts as an input
    from then on, and `collected` names the inputs that are `missing` and says when the last file was stamped (`changed`).
    """
    Collector(request, control).run()


class Collector:
    """One collection, within the limits of its request."""

    def __init__(self, request: Header, control: socket.socket) -> None:
        self._inputs: dict[str, int] = request["inputs"]
        self._stamp: int = request["stamp"]
        self._changed: int = request["changed"]
        self._most_files: int = request["files"]
        self._most_bytes: int = request["file_bytes"]
        self._bytes_left: int = request["total_bytes"]
        self._entries_left: int = request["entries"]
        self._skipped_left: int = request["skipped"]
        self._restamp: bool = request.get("restamp", False)
        self._control = control
        self._sent = 0
        self._seen: set[str] = set()

    def run(self) -> None:
        """Walk the current directory and send what is to be sent."""
        root = os.open(".", FLAGS | os.O_DIRECTORY)
        for name, fd, info in self._walk(root, "", 0):
            try:
                self._offer(name, fd, info)
            finally:
                os.close(fd)
        collected: Header = {"type": "collected"}
        if self._restamp:
            missing = [name for name in self._inputs if name not in self._seen]
            collected.update(missing=missing, changed=self._changed)
        self._control.sendall(pack(collected))

    def _walk(self, directory: int, path: str, depth: int) -> Iterator[tuple[str, int, os.stat_result]]:
        """Regular files below an open directory, which is closed at the end; each as name, open descriptor and status."""
        try:
            subdirectories = []
            for entry in self._names(directory, path):
                name = path + entry
                try:
                    info = os.stat(entry, dir_fd=directory, follow_symlinks=False)
                    if stat.S_ISDIR(info.st_mode):
                        subdirectories.append(entry)
                    elif not stat.S_ISREG(info.st_mode):
                        self._skip(name, f"not a regular file but a {_kind(info.st_mode)}")
                    elif not self._untouched(name, info):
                        fd = os.open(entry, FLAGS, dir_fd=directory)
                        yield name, fd, os.fstat(fd)
                except OSError as error:
                    self._skip(name, f"could not be opened: {error.strerror}")
            for entry in subdirectories:
                if depth == DEPTH:
                    self._skip(path + entry, f"directories deeper than {DEPTH} are not looked into")
                    continue
                try:
                    fd = os.open(entry, FLAGS | os.O_DIRECTORY, dir_fd=directory)
                except OSError as error:
                    self._skip(path + entry, f"could not be opened: {error.strerror}")
                    continue
                yield from self._walk(fd, path + entry + "/", depth + 1)
        finally:
            os.close(directory)

    def _names(self, directory: int, path: str) -> list[str]:
        """Entries of a directory in order, as far as the limit on entries goes."""
        names = []
        with os.scandir(directory) as entries:
            for entry in entries:
                if self._entries_left <= 0:
                    self._skip(path or ".", "too many entries: the rest was not looked at")
                    break
                self._entries_left -= 1
                problem = _unspeakable(entry.name)
                if problem:
                    self._skip(path + os.fsencode(entry.name).decode(errors="replace"), problem)
                else:
                    names.append(entry.name)
        return sorted(names)

    def _untouched(self, name: str, info: os.stat_result) -> bool:
        self._seen.add(name)
        same = self._inputs.get(name) == info.st_size and info.st_mtime_ns == self._stamp
        return same and (not self._changed or info.st_ctime_ns <= self._changed)

    def _offer(self, name: str, fd: int, info: os.stat_result) -> None:
        if not stat.S_ISREG(info.st_mode):
            self._skip(name, "changed while it was looked at")
        elif self._sent >= self._most_files:
            self._skip(name, f"over the limit of {self._most_files} files")
        elif info.st_size > self._most_bytes:
            self._skip(name, f"{info.st_size} bytes: over the limit of {self._most_bytes} for one file")
        elif info.st_size > self._bytes_left:
            self._skip(name, f"{info.st_size} bytes: over what is left of the limit for all files")
        else:
            self._send(name, fd, info.st_size)

    def _send(self, name: str, fd: int, size: int) -> None:
        self._sent += 1
        self._bytes_left -= size
        if self._restamp:
            os.utime(fd, ns=(self._stamp, self._stamp))
            self._changed = max(self._changed, os.fstat(fd).st_ctime_ns)
        header: dict[str, Any] = {"type": "file", "name": name, "size": size}
        while True:
            body = os.read(fd, min(CHUNK, size)) if size else b""
            size -= len(body)
            more = size > 0 and bool(body)
            if more:
                header["more"] = True
            self._control.sendall(pack(header, body))
            if not more:
                return
            header = {"type": "file", "name": name}

    def _skip(self, name: str, reason: str) -> None:
        if self._skipped_left > 0:
            self._skipped_left -= 1
            self._control.sendall(pack({"type": "skipped", "name": name, "reason": reason}))


def _unspeakable(name: str) -> str:
    """Why a name can't be told to anybody; empty where it can."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not valid UTF-8"
    if any(ord(c) < 32 or ord(c) == 127 for c in name):
        return "its name has control characters"
    return ""


def _kind(mode: int) -> str:
    for test, kind in (
        (stat.S_ISLNK, "symbolic link"),
        (stat.S_ISFIFO, "FIFO"),
        (stat.S_ISSOCK, "socket"),
        (stat.S_ISCHR, "device"),
        (stat.S_ISBLK, "device"),
    ):
        if test(mode):
            return kind
    return "thing of another kind"
