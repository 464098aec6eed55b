"""Landlock: a process denies itself, and all that it starts, what it does not need. Needs no privilege.

    ABI  Linux  what it adds
    1    5.13   files and directories below given paths, and no ptrace out of the domain
    2    5.19   renames and links from one directory to another (without it they are all refused)
    3    6.2    truncation
    4    6.7    TCP: bind and connect
    5    6.10   ioctl on devices
    6    6.12   scopes: abstract Unix sockets, signals
    7    6.15   what is logged

With scopes, `kill(-1)` of a process reaches exactly the processes below it: see `scope_signals`.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterable

from . import linux

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
"""Rights that mean something for a path that is no directory; the kernel refuses others there."""

_TCP = 3
_ABSTRACT_UNIX_SOCKETS, _SIGNALS = 1, 2

_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_LOG_NOTHING = 1 | 4
"""Neither this program's refusals nor those of domains below: a hostile job would fill the audit log."""

_ABI_SCOPES, _ABI_LOG = 6, 7


def abi() -> int:
    """The version that the kernel offers; 0 where there is none, or it is switched off."""
    try:
        return linux.syscall("landlock_create_ruleset", None, 0, _CREATE_RULESET_VERSION)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
            return 0
        raise


def restrict(read: Iterable[str], write: Iterable[str], scope: bool = True, net: bool = True) -> None:
    """Deny the calling thread everything but to read and execute below `read`, and all use of what lies below `write`.

    `net` also denies TCP, and `scope` abstract Unix sockets and signals out of the domain. What the kernel's ABI
    lacks is left out: ask `abi()` first where it matters. Paths that don't exist are left out. Sets no_new_privs.
    Descriptors that are open already keep what they can do. Raises OSError where there is no Landlock.
    """
    version = abi()
    handled = _handled(version)
    with _Ruleset(version, handled, _TCP if net else 0, _ABSTRACT_UNIX_SOCKETS | _SIGNALS if scope else 0) as ruleset:
        for path in read:
            ruleset.allow(path, _READ)
        for path in write:
            ruleset.allow(path, handled)
        ruleset.enforce()


def scope_signals() -> None:
    """Let the calling thread, and all that it starts, signal nobody outside. Needs ABI 6.

    What a PID namespace gives to its first process, this gives without one: `kill(-1, SIGKILL)` ends all that descends
    from here and nothing else. A process that must not signal its parent enters a domain of its own below this one.
    """
    version = abi()
    if version < _ABI_SCOPES:
        raise OSError(errno.EOPNOTSUPP, f"landlock: ABI {version} has no scopes")
    with _Ruleset(version, 0, 0, _SIGNALS) as ruleset:
        ruleset.enforce()


def _handled(version: int) -> int:
    """All rights on files that an ABI knows."""
    rights = (1 << 13) - 1
    for since, right in ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEV)):
        if version >= since:
            rights |= right
    return rights


class _Ruleset:
    """A ruleset under construction, open while its block is."""

    def __init__(self, version: int, files: int, net: int, scopes: int) -> None:
        attr = struct.pack("QQQ", files, net, scopes)
        size = 24 if version >= _ABI_SCOPES else 16 if version >= 4 else 8
        self._version = version
        self._files = files
        self._fd = linux.syscall("landlock_create_ruleset", attr, size, 0)

    def __enter__(self) -> _Ruleset:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def allow(self, path: str, rights: int) -> None:
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            rights &= self._files
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                rights &= _OF_FILES
            linux.syscall("landlock_add_rule", self._fd, _RULE_PATH_BENEATH, struct.pack("=Qi", rights, fd), 0)
        finally:
            os.close(fd)

    def enforce(self) -> None:
        linux.set_no_new_privs()
        linux.syscall("landlock_restrict_self", self._fd, _LOG_NOTHING if self._version >= _ABI_LOG else 0)
