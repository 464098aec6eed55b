"""The root file system that jobs see: the host's tool chains read-only, and nothing else of the host.

Built once, by the master; every cell inherits it and mounts its own writable directories over it.
"""

from __future__ import annotations

import glob
import os
import sys

from . import linux
from .options import WORKSPACE, Options

ETC = (
    "alternatives",
    "fonts",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "matplotlibrc",
    "mime.types",
    "protocols",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
    "timezone",
)
DEVICES = ("null", "zero", "full", "random", "urandom")
LINKS = (("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2"))
READ_ONLY = linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV


def build(options: Options, as_root: bool) -> None:
    """Replace the root of this mount namespace. Raises OSError where this machine does not allow it."""
    root = options.scratch + "/root"
    os.makedirs(root, exist_ok=True)
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
    linux.mount("tmpfs", root, "tmpfs", linux.MS_NOSUID, "size=4m,mode=755")
    for name in ("dev", "dev/shm", "etc", "mnt", WORKSPACE[1:], "old", "proc", "run", "tmp", "usr", "var", "var/tmp"):
        os.makedirs(f"{root}/{name}", exist_ok=True)
    _bind(root, "/usr")
    _system_links(root)
    _tool_chains(root, options)
    _devices(root, as_root)
    _etc(root, options)
    linux.pivot_root(root, root + "/old")
    os.chdir("/")
    # Processes of the host stay visible to the master only: each cell mounts its own /proc over this one.
    linux.mount("/old/proc", "/proc", None, linux.MS_BIND | linux.MS_REC)
    linux.umount("/old", linux.MNT_DETACH)
    os.rmdir("/old")
    linux.mount(None, "/", None, linux.MS_BIND | linux.MS_REMOUNT | linux.MS_RDONLY | linux.MS_NOSUID)


def _bind(root: str, path: str) -> None:
    """Show the host's `path` read-only at the same place below `root`."""
    target = root + path
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    linux.mount(path, target, None, linux.MS_BIND | linux.MS_REC)
    linux.mount(None, target, None, READ_ONLY)


def _system_links(root: str) -> None:
    """/bin, /lib and the like: links into /usr on most systems, directories on others."""
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        path = "/" + name
        if os.path.islink(path):
            os.symlink(os.readlink(path), root + path)
        elif os.path.isdir(path):
            _bind(root, path)


def _tool_chains(root: str, options: Options) -> None:
    prefix = os.path.realpath(sys.base_prefix)
    if not prefix.startswith("/usr/") and prefix != "/usr":
        _bind(root, prefix)
    for pattern in options.paths:
        for path in sorted(glob.glob(pattern)):
            if not os.path.lexists(root + path):
                _bind(root, path)


def _devices(root: str, as_root: bool) -> None:
    for name in DEVICES:
        path = f"{root}/dev/{name}"
        if as_root:
            os.mknod(path, 0o666 | 0o020000, os.stat("/dev/" + name).st_rdev)
            os.chmod(path, 0o666)  # noqa: S103 - /dev/null and its like are everybody's
        else:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
            linux.mount("/dev/" + name, path, None, linux.MS_BIND)
    for name, target in LINKS:
        os.symlink(target, f"{root}/dev/{name}")


def _etc(root: str, options: Options) -> None:
    for name in ETC:
        path = "/etc/" + name
        if os.path.exists(path) and not os.path.lexists(root + path):
            _bind(root, os.path.realpath(path)) if os.path.realpath(path) == path else _copy(path, root + path)
    users = [f"runner{n}:x:{options.uid_base + n}:{options.uid_base + n}::/tmp:/bin/sh" for n in range(options.cells)]
    _write(root + "/etc/passwd", "root:x:0:0::/:/bin/sh", "runner:x:65532:65532::/tmp:/bin/sh", *users)
    groups = [f"runner{n}:x:{options.uid_base + n}:" for n in range(options.cells)]
    _write(root + "/etc/group", "root:x:0:", "runner:x:65532:", *groups)
    _write(root + "/etc/hosts", "127.0.0.1 localhost sandbox", "::1 localhost")
    _write(root + "/etc/nsswitch.conf", "passwd: files", "group: files", "hosts: files")


def _copy(path: str, target: str) -> None:
    """A link of the host's /etc: what it leads to, as a file or directory of its own."""
    real = os.path.realpath(path)
    if os.path.isdir(real):
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(real, "rb") as source, open(target, "wb") as copy:
        copy.write(source.read())


def _write(path: str, *lines: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
