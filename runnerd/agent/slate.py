"""Memory in which a snapshot of variables goes from one process to another: written once, read once, in no queue between them.

It is a memfd, sealed at its size: whoever gets it can't make it larger, and so have memory that counts nowhere, nor smaller under
the hands of who reads it. What is read was written by a program, and may be changed while it is read. See memfd_create(2).
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterable

_ADD_SEALS, _SEALED, _SHRUNK, _GROWN = 1033, 1, 2, 4  # see fcntl(2)
_MAP_POPULATE = 0x8000  # Python has its name since 3.10
_mmap, _fstat, _pread, _close, _sum, _len = mmap.mmap, os.fstat, os.pread, os.close, sum, len


class Slate:
    """One descriptor of it. A program that closes it, or puts another in its place, has its snapshot kept nowhere."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.size = 0
        """Bytes that were written here, by `append`."""
        at = _fstat(fd)
        self._identity = (at.st_dev, at.st_ino)

    @classmethod
    def make(cls, room: int) -> Slate:
        """A new one for at most so many bytes, of which only those count as memory that are written."""
        fd = os.memfd_create("snapshot", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, max(1, room))
            fcntl.fcntl(fd, _ADD_SEALS, _SEALED | _SHRUNK | _GROWN)
        except BaseException:
            os.close(fd)
            raise
        return cls(fd)

    def append(self, piece: bytes | memoryview) -> None:
        """Write behind what was written here before. Raises OSError where there is no room."""
        while piece:
            written = os.pwrite(self.fd, piece, self.size)
            self.size += written
            piece = memoryview(piece)[written:]

    def fill(self, pieces: Iterable[bytes]) -> None:
        """Write from the beginning, whatever size a file may have for this process. Raises OSError and ValueError where that fails."""
        pieces = list(pieces)
        at = _fstat(self.fd)
        if (at.st_dev, at.st_ino) != self._identity:
            raise ValueError("it is another file")
        size = _sum(map(_len, pieces))
        with _mmap(self.fd, size, flags=mmap.MAP_SHARED | _MAP_POPULATE) as memory:
            start = 0
            for piece in pieces:
                memory[start : start + _len(piece)] = piece
                start += _len(piece)

    def read(self, start: int, size: int) -> bytes:
        """Bytes from `start`, fewer only at its end."""
        return _pread(self.fd, size, start)

    def close(self) -> None:
        """Close this descriptor. Does nothing a second time."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            _close(fd)
