"""Blobs as files, `<key>.blob`. Each is written beside them and renamed, so it is there whole or not at all."""

import asyncio
import os
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

from runnerd import StoreError, check_key, new_id

T = TypeVar("T")

_CHUNK_BYTES = 256 << 10


class DiskBlobs:
    """See `Blobs` of runnerd for what the methods promise."""

    def __init__(self, directory: Path, threads: ThreadPoolExecutor, *, most_bytes: int, fsync: bool) -> None:
        self._directory = directory
        self._parts = directory / ".parts"
        self._threads = threads
        self._most_bytes = most_bytes
        self._fsync = fsync
        self._bytes = 0

    async def prepare(self) -> None:
        """Remove what a daemon that died left half written, and count what there is."""

        def act() -> int:
            shutil.rmtree(self._parts, ignore_errors=True)
            self._parts.mkdir(parents=True, mode=0o700)
            return sum(path.stat().st_size for path in self._directory.rglob("*.blob"))

        self._bytes = await self._ask(act)

    async def put(self, key: str, chunks: AsyncIterator[bytes], content_type: str = "") -> int:  # noqa: ARG002 - nobody reads it back
        """See `Blobs.put`."""
        path, part = self._path(key), self._parts / new_id()
        size = 0
        file = self._open(part, "xb")
        try:
            async for chunk in chunks:
                self._take(len(chunk))
                size += len(chunk)
                await self._ask(lambda chunk=chunk: file.write(chunk))  # type: ignore[misc]
        except BaseException:
            self._bytes -= size
            file.close()
            part.unlink(missing_ok=True)
            raise
        landing = asyncio.get_running_loop().run_in_executor(self._threads, self._land, file, part, path)
        landing.add_done_callback(lambda landed: self._count(landed, size))
        try:
            await asyncio.shield(landing)  # once begun it ends, and is counted, though the caller be gone
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror or error}") from error
        return size

    async def get(self, key: str) -> AsyncGenerator[bytes, None]:
        """See `Blobs.get`."""
        try:
            file = self._open(self._path(key), "rb")
        except FileNotFoundError:
            raise KeyError(key) from None
        with file:
            while chunk := await self._ask(lambda: file.read(_CHUNK_BYTES)):
                yield chunk

    async def delete(self, key: str) -> None:
        """See `Blobs.delete`."""
        path = self._path(key)

        def act() -> int:
            try:
                size = path.stat().st_size
                path.unlink()
            except FileNotFoundError:
                return 0
            for parent in path.parents:
                if parent == self._directory:
                    break
                with suppress(OSError):  # not empty, or filled again just now
                    parent.rmdir()
            return size

        self._bytes -= await self._ask(act)

    def _take(self, size: int) -> None:
        if self._bytes + size > self._most_bytes:
            raise StoreError(f"{self._directory}: full at {self._most_bytes} bytes: raise blob_bytes, or delete some")
        self._bytes += size

    def _path(self, key: str) -> Path:
        # A token has neither dots nor slashes, so no key leaves the directory, and no blob's name is a directory's.
        return self._directory / f"{check_key(key)}.blob"

    def _open(self, path: Path, mode: str) -> BinaryIO:
        try:
            return open(path, mode)  # type: ignore[return-value]
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}") from error

    def _land(self, file: BinaryIO, part: Path, path: Path) -> int:
        """Put the finished file in its place; returns the size of the one that it replaces."""
        try:
            with file:
                file.flush()
                if self._fsync:
                    os.fsync(file.fileno())
            replaced = path.stat().st_size if path.exists() else 0
            self._rename(part, path)
        finally:
            part.unlink(missing_ok=True)
        if self._fsync:
            descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        return replaced

    def _rename(self, part: Path, path: Path) -> None:
        for _ in range(10):
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # a delete removed the directory, empty until now
                part.replace(path)
                return
        raise StoreError(f"{path}: its directory can't be made")

    def _count(self, landed: "asyncio.Future[int]", size: int) -> None:
        if landed.cancelled() or landed.exception() is not None:
            self._bytes -= size
        else:
            self._bytes -= landed.result()

    async def _ask(self, act: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, act)
        except OSError as error:
            raise StoreError(f"{self._directory}: {error.strerror or error}") from error
