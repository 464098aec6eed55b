"""The agent's archive: compiled for the interpreter that wrote it, and of use to every other."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from runnerd.executors import archive

IMPORTS = "import sys; sys.path.insert(0, {!r}); import agent.frames; print(agent.frames.__file__)"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "agent.pyz"
    archive.write(path)
    return path


def imported(path: Path) -> str:
    """Where this interpreter takes a module of the archive from."""
    done = subprocess.run([sys.executable, "-I", "-c", IMPORTS.format(str(path))], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_modules_are_there_twice(written: Path) -> None:
    with zipfile.ZipFile(written) as found:
        names = set(found.namelist())
    assert {name + "c" for name in names if name.startswith("agent/") and name.endswith(".py")} <= names


def test_compiled_ones_are_taken(written: Path) -> None:
    assert imported(written) == f"{written}/agent/frames.pyc"


def test_those_of_another_version_are_passed_over(written: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "agent.pyz"
    with zipfile.ZipFile(written) as found, zipfile.ZipFile(foreign, "w") as made:
        for name in found.namelist():
            data = found.read(name)
            made.writestr(name, b"\0\0\0\0" + data[4:] if name.endswith(".pyc") else data)
    assert imported(foreign) == f"{foreign}/agent/frames.py"
