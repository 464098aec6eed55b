"""Blobs as files, `<key>.blob`. Each is written beside them and renamed, so it is there whole or not at all."""

import asyncio
import os
import shutil
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

from runnerd import Blob, StoreError, check_content_type, check_key, check_range, new_id

from .blobfile import ENDING, header, keys_below, read_about

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
            return sum(path.stat().st_size for path in self._directory.rglob(f"*{ENDING}"))

        self._bytes = await self._ask(act)

    async def put(self, key: str, chunks: AsyncIterator[bytes], content_type: str = "application/octet-stream") -> Blob:
        """See `Blobs.put`."""
        path, part = self._path(key), self._parts / new_id()
        head = header(check_content_type(content_type))
        size = 0
        file = self._open(part, "xb")
        try:
            size += self._take(len(head))
            await self._ask(lambda: file.write(head))
            async for chunk in chunks:
                size += self._take(len(chunk))
                await self._ask(lambda chunk=chunk: file.write(chunk))  # type: ignore[misc]
        except BaseException:
            self._bytes -= size
            with suppress(OSError):  # what it still held back does not fit either
                file.close()
            part.unlink(missing_ok=True)
            raise
        landing = asyncio.get_running_loop().run_in_executor(self._threads, self._land, file, part, path)
        landing.add_done_callback(lambda landed: self._count(landed, size))
        try:
            await asyncio.shield(landing)  # once begun it ends, and is counted, though the caller be gone
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror or error}") from error
        return Blob(key=key, size=size - len(head), content_type=content_type, modified=time.time())

    async def get(self, key: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """See `Blobs.get`."""
        check_range(start, end)
        try:
            file = self._open(self._path(key), "rb")
        except FileNotFoundError:
            raise KeyError(key) from None
        left = sys.maxsize if end is None else end - start
        with file:
            read_about(file, key)
            file.seek(start, os.SEEK_CUR)
            while chunk := await self._ask(partial(file.read, min(_CHUNK_BYTES, left))):
                left -= len(chunk)
                yield chunk

    async def info(self, key: str) -> Blob | None:
        """See `Blobs.info`."""
        path = self._path(key)

        def act() -> Blob | None:
            try:
                with path.open("rb") as file:
                    return read_about(file, key)
            except FileNotFoundError:
                return None

        return await self._ask(act)

    async def list(self, prefix: str = "", after: str = "", most: int = 1000) -> list[Blob]:
        """See `Blobs.list`."""
        base = prefix.rpartition("/")[0]
        if base:
            check_key(base)

        def act() -> list[Blob]:
            found: list[Blob] = []
            keys = keys_below(self._directory / base, f"{base}/" if base else "", prefix, after)
            while len(found) < most and (key := next(keys, None)) is not None:
                with suppress(FileNotFoundError), open(self._path(key), "rb") as file:  # deleted just now
                    found.append(read_about(file, key))
            return found

        return await self._ask(act)

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

    def _take(self, size: int) -> int:
        if self._bytes + size > self._most_bytes:
            raise StoreError(f"{self._directory}: full at {self._most_bytes} bytes: raise blob_bytes, or delete some")
        self._bytes += size
        return size

    def _path(self, key: str) -> Path:
        # A token has neither dots nor slashes, so no key leaves the directory, and no blob's name is a directory's.
        return self._directory / f"{check_key(key)}{ENDING}"

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
        """Do it in a thread. Raises StoreError, and FileNotFoundError as it is."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, act)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(f"{error.filename or self._directory}: {error.strerror or error}") from error
