"""The agent as one file: a zip archive that any Python from 3.9 on runs."""

import zipfile
from importlib import resources
from pathlib import Path

MAIN = b"from agent.__main__ import main\n\nmain()\n"


def write(path: Path) -> None:
    """Write the archive, readable by everybody."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("__main__.py", MAIN)
        for source in resources.files("runnerd.agent").iterdir():
            if source.name.endswith(".py"):
                archive.writestr(f"agent/{source.name}", source.read_bytes())
    path.chmod(0o644)
