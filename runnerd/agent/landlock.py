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
from typing import NamedTuple

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

ABI_SCOPES, _ABI_LOG = 6, 7


def abi() -> int:
    """The version that the kernel offers; 0 where there is none, or it is switched off."""
    try:
        return linux.syscall("landlock_create_ruleset", None, 0, _CREATE_RULESET_VERSION)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
            return 0
        raise


class Ruleset(NamedTuple):
    """What may be done, ready to be enforced: by several processes one after the other, too."""

    fd: int
    flags: int

    @classmethod
    def of(cls, read: Iterable[str], write: Iterable[str], scope: bool = True, net: bool = True) -> Ruleset:
        """Nothing but to read and execute below `read`, and all use of what lies below `write`.

        `net` also denies TCP, and `scope` abstract Unix sockets and signals out of the domain. What the kernel's ABI
        lacks is left out: ask `abi()` first where it matters. Paths that don't exist are left out. A directory is meant as
        it is now: one that is made in its place later is another. Raises OSError where there is no Landlock.
        """
        version = abi()
        handled = _handled(version)
        ruleset = cls._create(version, handled, _TCP if net else 0, _ABSTRACT_UNIX_SOCKETS | _SIGNALS if scope else 0)
        try:
            for path in read:
                ruleset.allow(path, handled & _READ, handled)
            for path in write:
                ruleset.allow(path, handled, handled)
        except BaseException:
            ruleset.close()
            raise
        return ruleset

    @classmethod
    def of_signals(cls, version: int) -> Ruleset:
        """Everything but signals out of the domain."""
        return cls._create(version, 0, 0, _SIGNALS)

    @classmethod
    def _create(cls, version: int, files: int, net: int, scopes: int) -> Ruleset:
        attr = struct.pack("QQQ", files, net, scopes)
        size = 24 if version >= ABI_SCOPES else 16 if version >= 4 else 8
        fd = linux.syscall("landlock_create_ruleset", attr, size, 0)
        return cls(fd, _LOG_NOTHING if version >= _ABI_LOG else 0)

    def allow(self, path: str, rights: int, handled: int) -> None:
        """Add a rule for a path, where there is such a path."""
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                rights &= _OF_FILES & handled
            linux.syscall("landlock_add_rule", self.fd, _RULE_PATH_BENEATH, struct.pack("=Qi", rights, fd), 0)
        finally:
            os.close(fd)

    def enforce(self) -> None:
        """Put the calling thread, and all that it starts, under it for good. Sets no_new_privs.

        Descriptors that are open already keep what they can do.
        """
        linux.set_no_new_privs()
        linux.syscall("landlock_restrict_self", self.fd, self.flags)

    def close(self) -> None:
        """Forget it; whoever is under it stays so."""
        os.close(self.fd)


def restrict(read: Iterable[str], write: Iterable[str], scope: bool = True, net: bool = True) -> None:
    """Enforce `Ruleset.of` at once."""
    ruleset = Ruleset.of(read, write, scope, net)
    try:
        ruleset.enforce()
    finally:
        ruleset.close()


def scope_signals() -> None:
    """Let the calling thread, and all that it starts, signal nobody outside. Needs ABI 6.

    What a PID namespace gives to its first process, this gives without one: `kill(-1, SIGKILL)` ends all that descends
    from here and nothing else. A process that must not signal its parent enters a domain of its own below this one.
    """
    version = abi()
    if version < ABI_SCOPES:
        raise OSError(errno.EOPNOTSUPP, f"landlock: ABI {version} has no scopes")
    ruleset = Ruleset.of_signals(version)
    try:
        ruleset.enforce()
    finally:
        ruleset.close()


def _handled(version: int) -> int:
    """All rights on files that an ABI knows."""
    rights = (1 << 13) - 1
    for since, right in ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEV)):
        if version >= since:
            rights |= right
    return rights
