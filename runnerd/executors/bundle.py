"""What runsc is told about one sandbox: its root, mounts and program, as the OCI runtime specification has it. Plain code.

https://github.com/opencontainers/runtime-spec/blob/main/config.md
"""

import glob
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..agent.options import WORKSPACE, Options
from ..agent.root import ETC

AGENT = "/opt/runnerd"
USER = 65_532
SYSTEM = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
VARIABLE = "RUNNERD_AGENT"
ENV = ("PATH=/usr/local/bin:/usr/bin:/bin",)


def make_root(root: Path) -> None:
    """What the root has that is not mounted: links into /usr, places for mounts, users and hosts."""
    for name in ("dev", "etc", "mnt", "opt", "proc", "run", "sys", "tmp", "usr", "var/tmp"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in SYSTEM:
        if os.path.islink(f"/{name}"):
            (root / name).symlink_to(os.readlink(f"/{name}"))
    files = {
        "passwd": ("root:x:0:0::/:/bin/sh", f"runner:x:{USER}:{USER}::/tmp:/bin/sh"),
        "group": ("root:x:0:", f"runner:x:{USER}:"),
        "hosts": ("127.0.0.1 localhost sandbox", "::1 localhost"),
        "nsswitch.conf": ("passwd: files", "group: files", "hosts: files"),
    }
    for name, lines in files.items():
        (root / "etc" / name).write_text("\n".join(lines) + "\n")


def shown(python: str, paths: Iterable[str]) -> list[str]:
    """Files and directories of the host that jobs may read: tool chains, and what these need of /etc. `paths` are globs."""
    wanted = ["/usr", *(f"/{name}" for name in SYSTEM), *(f"/etc/{name}" for name in ETC)]
    prefix = os.path.dirname(os.path.dirname(python))
    wanted += [prefix] if prefix != "/" else []  # an interpreter in /bin, which is shown
    wanted += [path for pattern in paths for path in sorted(glob.glob(pattern))]
    found: list[str] = []
    for path in wanted:
        below = any(path == other or path.startswith(other + "/") for other in found)
        if os.path.exists(path) and not below and not (os.path.islink(path) and os.path.dirname(path) == "/"):
            found.append(path)
    return found


def config(root: Path, archive: Path, python: str, host: Iterable[str], options: Options) -> dict[str, Any]:
    """The container of one sandbox. `archive` is the directory of the agent, `host` what `shown` gave."""
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        _tmpfs(WORKSPACE, options.workspace_bytes),
        _tmpfs("/tmp", options.tmp_bytes),  # noqa: S108 - the sandbox's own
        _tmpfs("/dev/shm", options.shm_bytes),  # noqa: S108 - likewise
        _bind(str(archive), AGENT),
        *(_bind(os.path.realpath(path), path) for path in host),
    ]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": USER, "gid": USER},
            "args": [python, "-I", "-X", "utf8", f"{AGENT}/agent.pyz", "pod"],
            "env": [*ENV, f"{VARIABLE}={options.dump()}"],
            "cwd": "/",
            "capabilities": {},
            "noNewPrivileges": True,
        },
        "root": {"path": str(root), "readonly": True},
        "hostname": "sandbox",
        "mounts": mounts,
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]},
    }


def write(directory: Path, content: dict[str, Any]) -> None:
    """Make the bundle's directory and its one file."""
    directory.mkdir(mode=0o700)
    (directory / "config.json").write_text(json.dumps(content))


def _tmpfs(path: str, size: int) -> dict[str, Any]:
    return {"destination": path, "type": "tmpfs", "source": "tmpfs", "options": [f"size={size}", "mode=1777", "nosuid", "nodev"]}


def _bind(source: str, path: str) -> dict[str, Any]:
    return {"destination": path, "type": "bind", "source": source, "options": ["rbind", "ro", "nosuid", "nodev"]}
