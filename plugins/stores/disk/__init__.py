"""Stores in a directory of this machine: a SQLite database for keys and values, one file for each blob.

What was written survives a daemon that is killed. With `fsync` it survives a power failure as well, which costs a wait for the
disk with each write; without it, the last writes before a power failure may be missing, and none is ever half there.
One daemon holds a directory at a time: a second one refuses to start.
"""

import fcntl
import os
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from runnerd import Blobs, KeyValues, Store, StoreError, hookimpl

from .blobs import DiskBlobs
from .database import Database
from .keyvalues import DiskKeyValues


class Disk(Store, tag="disk", frozen=True, kw_only=True):
    """Keeps everything in a directory of this machine."""

    path: str = ""
    """The directory. Empty: `store` below `state_dir`."""
    state_dir: str = ""
    """The daemon's directory for lasting files."""
    fsync: bool = False
    """Wait for the disk with each write, so that it survives a power failure."""
    kv_bytes: Annotated[int, Meta(ge=1 << 20)] = 4 << 30
    """Size of the database; what would be more is refused."""
    blob_bytes: Annotated[int, Meta(ge=1)] = 64 << 30
    """Bytes of all blobs together; what would be more is refused."""
    value_bytes: Annotated[int, Meta(ge=1, le=512 << 20)] = 64 << 20
    """The largest value of a key that is taken."""
    most_waiting: Annotated[int, Meta(ge=1)] = 10_000
    """Operations that wait for the database at once; a further one is refused."""

    def where(self) -> str:
        """The directory."""
        return self.path or f"{self.state_dir}/store"

    @asynccontextmanager
    async def open_kv(self) -> AsyncGenerator[KeyValues, None]:
        """The database, held for this daemon alone. Raises StoreError, naming the path and who holds it."""
        with _held(self._directory(), "kv") as directory:
            database = Database(directory / "kv.sqlite3", most_bytes=self.kv_bytes, most_waiting=self.most_waiting, fsync=self.fsync)
            await database.open()
            try:
                yield DiskKeyValues(database, value_bytes=self.value_bytes)
            finally:
                await database.close()

    @asynccontextmanager
    async def open_blobs(self) -> AsyncGenerator[Blobs, None]:
        """The files, held for this daemon alone. Raises StoreError, naming the path and who holds it."""
        with _held(self._directory(), "blobs") as directory, ThreadPoolExecutor(4, "runnerd-blobs") as threads:
            blobs = DiskBlobs(directory / "blobs", threads, most_bytes=self.blob_bytes, fsync=self.fsync)
            await blobs.prepare()
            yield blobs

    def _directory(self) -> Path:
        if not self.path and not self.state_dir:
            raise StoreError("disk store: path is missing: name the directory that it may use")
        return Path(self.path).expanduser() if self.path else Path(self.state_dir) / "store"


@contextmanager
def _held(directory: Path, what: str) -> Iterator[Path]:
    """Hold a part of the directory for this process; the lock ends with the process, however that ends."""
    lock = directory / f"{what}.lock"
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"{directory}: can't be used: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pid = os.read(descriptor, 20).decode(errors="replace").strip()
            holder = f"process {pid}" if pid else "another process"
            raise StoreError(f"{directory}: {holder} uses it already: stop that one, or give this daemon another path") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield directory
    finally:
        os.close(descriptor)


@hookimpl
def register_stores() -> list[type[Store]]:
    """The disk store."""
    return [Disk]
