"""The agent as one file: a zip archive that any Python from 3.9 on runs. Beside it lies what snapshots of variables need."""

import zipfile
from importlib import resources
from pathlib import Path

from ..agent import master

MODULES = ("cloudpickle", "lz4", "lz4.frame")
"""Packages for a sandbox's interpreter that has none of its own; compiled parts serve one of our own version only."""
MAIN = b"from agent.__main__ import main\n\nmain()\n"


def write(path: Path) -> None:
    """Write the archive to `path`, and what belongs beside it, readable by everybody."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("__main__.py", MAIN)
        for source in resources.files("runnerd.agent").iterdir():
            if source.name.endswith(".py"):
                archive.writestr(f"agent/{source.name}", source.read_bytes())
    path.chmod(0o644)
    _write_modules(path.parent / master.MODULES)


def _write_modules(directory: Path) -> None:
    for name in MODULES:
        target = directory.joinpath(*name.split("."))
        target.mkdir(parents=True, exist_ok=True)
        for source in resources.files(name).iterdir():
            if source.name.endswith((".py", ".so")):
                (target / source.name).write_bytes(source.read_bytes())
                (target / source.name).chmod(0o644)
        target.chmod(0o755)
    directory.chmod(0o755)
