"""Saves the files that a program left. Their names are the program's, so none may lead out of the directory."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import Rejected, RunnerdError
from ..job import File
from ..validity import check_name

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def save_files(files: Sequence[File], directory: Path, *, force: bool = False) -> int:
    """Write each file below `directory`, which is made where it is missing; returns how many. Links in it are never followed.

    Raises RunnerdError with every file that could not be saved; the others are.
    """
    problems = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise RunnerdError(f"--out {directory}: {error.strerror}") from None
    try:
        for file in files:
            try:
                _save(file, root, force=force)
            except FileExistsError:
                problems.append(f"{_shown(file)}: is there already, and was not replaced: --force replaces it")
            except Rejected as error:
                problems.append(f"not saved: {error}")
            except OSError as error:
                problems.append(f"{_shown(file)}: can't be saved: {error.strerror}")
    finally:
        os.close(root)
    if problems:
        raise RunnerdError("\n".join(f"--out {directory}: {problem}" for problem in problems))
    return len(files)


def _save(file: File, root: int, *, force: bool) -> None:
    *above, name = check_name(file.name, "name").split("/")
    with _below(root, above) as directory:
        if force and _is_there(name, directory):
            os.unlink(name, dir_fd=directory)  # the name, whatever it is or leads to; a directory stays
        with os.fdopen(os.open(name, _NEW, 0o666, dir_fd=directory), "wb") as saved:
            saved.write(file.content)


@contextmanager
def _below(root: int, parts: Sequence[str]) -> Iterator[int]:
    """The directory of these parts below `root`, made where it is missing."""
    directory = os.dup(root)
    try:
        for part in parts:
            with suppress(FileExistsError):  # and if that is no directory, opening it says so
                os.mkdir(part, dir_fd=directory)
            below = os.open(part, _DIRECTORY, dir_fd=directory)
            os.close(directory)
            directory = below
        yield directory
    finally:
        os.close(directory)


def _is_there(name: str, directory: int) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _shown(file: File) -> str:
    return file.name if file.name.isprintable() else ascii(file.name)
