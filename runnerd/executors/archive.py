"""The agent as one file: a zip archive that any Python from 3.9 on runs. Beside it lies what snapshots of variables need.

Its modules are in it compiled as well, which spares each sandbox a fifth of a second where its interpreter is of the version
that wrote the archive; another one takes their source.
"""

import marshal
import zipfile
from importlib import resources
from importlib.util import MAGIC_NUMBER, source_hash
from pathlib import Path

from ..agent import orders

MODULES = ("cloudpickle", "lz4", "lz4.frame")
"""Packages for a sandbox's interpreter that has none of its own; compiled parts serve one of our own version only."""
MAIN = b"from agent.__main__ import main\n\nmain()\n"


def write(path: Path) -> None:
    """Write the archive to `path`, and what belongs beside it, readable by everybody."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("__main__.py", MAIN)
        for source in resources.files("runnerd.agent").iterdir():
            if source.name.endswith(".py"):
                name, text = f"agent/{source.name}", source.read_bytes()
                archive.writestr(name, text)
                archive.writestr(f"{name}c", compiled(name, text))
    path.chmod(0o644)
    _write_modules(path.parent / orders.MODULES)


UNCHECKED_HASH = (1).to_bytes(4, "little")
"""Flags of PEP 552: never compared with the source."""


def compiled(name: str, text: bytes) -> bytes:
    """A module's source, as this interpreter and its like would keep it in `__pycache__`."""
    code = compile(text, name, "exec", dont_inherit=True, optimize=0)
    return MAGIC_NUMBER + UNCHECKED_HASH + source_hash(text) + marshal.dumps(code)


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
