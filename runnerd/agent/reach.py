"""What of the file system a job reaches, by Landlock: all that there is where it has a root of its own."""

from __future__ import annotations

import glob
import os
import sys

from . import landlock
from .options import PROCESS, Options
from .root import ETC

_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


def ruleset(options: Options, slot: int) -> landlock.Ruleset | None:
    """For the jobs of a cell, whose directories are there already; None where the level has none, or does without."""
    own = (options.workspace(slot), options.tmp(slot), *_DEVICES)
    if options.alone:
        return landlock.Ruleset.of(read=("/",), write=(*own, "/dev/shm")) if landlock.abi() > 0 else None  # noqa: S108
    return None if options.level == PROCESS else landlock.Ruleset.of(read=_host_paths(options), write=own)


def _host_paths(options: Options) -> tuple[str, ...]:
    """What a job may read of the host where it has no root of its own."""
    paths = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", os.path.realpath(sys.base_prefix)]
    paths += ["/etc/" + name for name in (*ETC, "passwd", "group", "nsswitch.conf")]
    for pattern in options.paths:
        paths += glob.glob(pattern)
    return tuple(path for path in paths if os.path.exists(path))
