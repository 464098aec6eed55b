"""The end of a warm program, told with nothing that the program may have replaced."""

from __future__ import annotations

import os

from .frames import HEAD

CONTROL = 3
"""Descriptor of the child's control socket. A program that a job starts does not inherit it."""
_read_fd, _write_fd, _len = os.read, os.write, len


def say_done(code: int, clean: bool, lives: bool = False) -> None:
    """Tell that the program has ended. `clean`: it left nothing; `lives`: its interpreter can go on."""
    header = b'{"type":"done","code":%d,"dirty":%s%s}' % (code, b"false" if clean else b"true", b',"lives":true' if lives else b"")
    try:  # each function that is called takes pages of its own: no `suppress`
        _write_fd(CONTROL, HEAD.pack(_len(header), 0) + header)
    except OSError:  # the program may have used up the socket
        return


def wait_to_be_killed() -> None:
    """Until then the cost of this process can be read."""
    try:
        _read_fd(CONTROL, 1)
    except OSError:
        return
