"""A writable directory that a pod brings for its jobs: empty when the pod starts, gone when it ends."""

from __future__ import annotations

import contextlib
import os

from . import tree


class Volume:
    """Has what the cell asks of `cell.Directory`."""

    def __init__(self, path: str, size: int, in_memory: bool) -> None:
        """`size` is how many bytes its files may take, 0 for any number; watched only where they lie in memory."""
        self.path = path
        self._size = size
        self._in_memory = in_memory
        self._before = 0
        self._before = self.used_bytes()

    @property
    def overfull(self) -> bool:
        """Whether its files take more than they may."""
        return 0 < self._size < self.used_bytes()

    def used_bytes(self) -> int:
        """Bytes that the files take in memory."""
        if not self._in_memory:
            return 0
        state = os.statvfs(self.path)
        return (state.f_blocks - state.f_bfree) * state.f_bsize - self._before

    def only_file(self) -> bytes:
        """The name of the one file, where there is nothing else; empty otherwise, and where that can't be told."""
        found = b""
        try:
            with os.scandir(os.fsencode(self.path)) as entries:
                for entry in entries:
                    if found or not entry.is_file(follow_symlinks=False):
                        return b""
                    found = entry.name
        except OSError:
            return b""
        return found

    def renew(self) -> bool:
        """Make it as it was before any job. It is the same directory still. Raises OSError."""
        tree.empty(self.path)
        for name in os.listxattr(self.path):
            with contextlib.suppress(PermissionError):  # whoever may not remove it has not set it
                os.removexattr(self.path, name)
        self._before += self.used_bytes()
        return False
