"""A blob's file: one line that says what is in it, then the blob. So both appear in one rename, on any file system."""

import heapq
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from runnerd import Blob, StoreError

ENDING = ".blob"
_MARK = b"runnerd-blob 1 "
_HEADER_BYTES = 512
"""More than any header has."""
_AT_ONCE = 1000
"""Names of one directory that are held in memory."""


def header(content_type: str) -> bytes:
    """What stands before the blob's bytes."""
    return _MARK + content_type.encode("ascii") + b"\n"


def read_about(file: BinaryIO, key: str) -> Blob:
    """Read the header; the file stands at the blob's first byte then. Raises StoreError where there is none."""
    line = file.readline(_HEADER_BYTES)
    if not line.startswith(_MARK) or not line.endswith(b"\n"):
        raise StoreError(f"{file.name}: is no blob: it does not begin with {_MARK.decode()!r}")
    about = os.fstat(file.fileno())
    return Blob(
        key=key, size=about.st_size - len(line), content_type=line[len(_MARK) : -1].decode("ascii", "replace"), modified=about.st_mtime
    )


def keys_below(directory: Path, base: str, prefix: str, after: str) -> Iterator[str]:
    """The keys of blobs in a directory, in order; `base` is what they all begin with."""
    last = ""
    while names := heapq.nsmallest(_AT_ONCE, (name for name in _names(directory, base) if name > last and _may(name, prefix, after))):
        for name in names:
            if name.endswith("/"):
                yield from keys_below(directory / name[len(base) : -1], name, prefix, after)
            elif name > after:
                yield name
        last = names[-1]


def _may(name: str, prefix: str, after: str) -> bool:
    """Whether what is named, a key or a directory `…/`, has what is looked for."""
    if name.endswith("/"):
        return (name.startswith(prefix) or prefix.startswith(name)) and (name > after or after.startswith(name))
    return name.startswith(prefix) and name > after


def _names(directory: Path, base: str) -> Iterator[str]:
    """Keys of blobs, and beginnings `…/` of keys in directories: sorted, they are in the order of the keys behind them."""
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.endswith(ENDING):
                    yield base + entry.name.removesuffix(ENDING)
                elif not entry.name.startswith("."):
                    yield f"{base}{entry.name}/"
    except (FileNotFoundError, NotADirectoryError):
        return
