"""A SQLite database. What is small is done where it is asked for, as that is sooner done than said to a thread: no disk is waited for.

All else has a thread of its own: what is large or long, each write that waits for the disk (`fsync`), what comes meanwhile or in a hurry.
Operations that come in together share a transaction there. The log (see sqlite.org/wal.html) is written back by the thread alone.
"""

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from runnerd import StoreError

T = TypeVar("T")
Answer = tuple["asyncio.Future[Any]", int, Any, StoreError | None]
"""Who asked, the size of what was asked, and what it came to."""

SMALL_BYTES = 16 << 10
"""Of a value that is written, or read, where it is asked for."""
LONG = SMALL_BYTES + 1
"""Size of an operation that may take long, whatever it writes."""
_AT_ONCE = 256
"""Operations that share a transaction at most."""
_HURRY_S, _HURRY = 0.01, 8
"""More than so many operations in so long, in seconds, are cheaper together than each where it is asked for."""
_LOG_BYTES = 4 << 20
"""So much is written to the log until it is written back; SQLite's own bound is about that."""
_ENTRY_BYTES = 16 << 10
"""What an operation writes to the log besides its value: pages of the table and of its indexes."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL, expires REAL NOT NULL);
CREATE INDEX IF NOT EXISTS expiries ON entries (expires);
CREATE TABLE IF NOT EXISTS ranks (ranking TEXT, member TEXT, score REAL NOT NULL, PRIMARY KEY (ranking, member)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS places ON ranks (ranking, score, member);
"""


class _Operation(NamedTuple):
    act: Callable[[sqlite3.Connection], Any]
    told: "asyncio.Future[Any]"
    size: int


class _WriteBack:
    """Asks the thread to write the log back."""


class Database:
    """The database, between `open` and `close`."""

    def __init__(self, path: Path, *, most_bytes: int, most_waiting: int, fsync: bool) -> None:
        self._path = path
        self._most_bytes = most_bytes
        self._most_waiting = most_waiting
        self._fsync = fsync
        self._operations: queue.SimpleQueue[_Operation | _WriteBack | None] = queue.SimpleQueue()
        self._waiting = 0
        """Operations that the thread has not answered. While there are any, the connection is the thread's."""
        self._connection: sqlite3.Connection | None = None
        self._log_bytes = 0
        self._since = 0.0
        self._asked = self._asked_before = 0
        """Operations since then, and in as long before."""
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._serve, name="runnerd-kv")
        self._ended = False
        self._revision = 0

    async def open(self) -> None:
        """Start the thread. Raises StoreError where the file can't be used."""
        self._thread.start()
        try:
            await asyncio.shield(self._opened)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End the thread, after all that waits for it."""
        self._connection = None  # the thread closes it
        await asyncio.shield(asyncio.to_thread(self._end))

    def _end(self) -> None:
        self._operations.put(None)
        self._thread.join()

    async def ask(self, act: Callable[[sqlite3.Connection], T], size: int) -> T:
        """Run `act`, which reads or writes a value of so many bytes, within a transaction. Raises StoreError."""
        if not self._hurry() and size <= SMALL_BYTES and not self._waiting and not self._fsync and self._connection is not None:
            try:
                value = _within(self._connection, act)
            except Exception:  # noqa: BLE001, S110 - the thread tries it again, makes room, or says what is wrong
                pass
            else:
                self._logged(size)
                return value
        if self._waiting >= self._most_waiting:
            raise StoreError(f"{self._path}: {self._most_waiting} operations wait for the disk already")
        told: asyncio.Future[T] = self._loop.create_future()
        self._waiting += 1
        self._operations.put(_Operation(act, told, size))
        return await told

    def _hurry(self) -> bool:
        """Count an operation; whether they come thick and fast."""
        now = time.monotonic()
        if now - self._since >= _HURRY_S:
            self._asked_before = self._asked if now - self._since < 2 * _HURRY_S else 0
            self._since, self._asked = now, 0
        self._asked += 1
        return max(self._asked, self._asked_before) > _HURRY

    def revision(self) -> int:
        """A revision that no entry has had: the time, so that one that was deleted doesn't come back."""
        self._revision = max(self._revision + 1, time.time_ns())
        return self._revision

    def _serve(self) -> None:
        try:
            connection = self._connect()
        except (sqlite3.Error, OSError) as error:
            failure = StoreError(f"{self._path}: can't be used as a database: {error}")
            self._tell([(self._opened, 0, None, failure)])
            while (operation := self._operations.get()) is not None:
                if isinstance(operation, _Operation):
                    self._tell([(operation.told, 0, None, failure)])
            return
        self._connection = connection
        self._tell([(self._opened, 0, None, None)])
        try:
            while not self._ended and (first := self._operations.get()) is not None:
                operations, due = self._gather(first)
                if operations:
                    self._tell(self._transact(connection, operations))
                if due:
                    with suppress(sqlite3.Error):  # a full disk, say: tried again with the next
                        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
                    self._loop.call_soon_threadsafe(self._written_back)
        finally:
            connection.close()

    def _logged(self, size: int) -> None:
        """Count what was written, and have the log written back when it is time; operations wait for the thread until it is."""
        self._log_bytes += size + _ENTRY_BYTES
        if self._log_bytes >= _LOG_BYTES:
            self._log_bytes = 0
            self._waiting += 1
            self._operations.put(_WriteBack())

    def _written_back(self) -> None:
        self._waiting -= 1

    def _gather(self, first: "_Operation | _WriteBack") -> tuple[list[_Operation], bool]:
        """The operations that came in together, and whether the log is to be written back after them."""
        operations, due = ([first], False) if isinstance(first, _Operation) else ([], True)
        while len(operations) < _AT_ONCE:
            try:
                operation = self._operations.get_nowait()
            except queue.Empty:
                break
            if operation is None:
                self._ended = True
                break
            if isinstance(operation, _Operation):
                operations.append(operation)
            else:
                due = True
        return operations, due

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # as the directory is held anyway: no lock for each transaction
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {'FULL' if self._fsync else 'NORMAL'}")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("PRAGMA secure_delete = FAST")  # Debian's default writes what is deleted once more
        page_bytes = connection.execute("PRAGMA page_size").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {self._most_bytes // page_bytes}")
        connection.executescript(_SCHEMA)
        self._revision = connection.execute("SELECT coalesce(max(revision), 0) FROM entries").fetchone()[0]
        return connection

    def _transact(self, connection: sqlite3.Connection, operations: list[_Operation]) -> list[Answer]:
        """Run all operations in one transaction; where that fails, each in one of its own, so that each fails for itself."""

        def act(connection: sqlite3.Connection) -> list[Answer]:
            return [(operation.told, operation.size, operation.act(connection), None) for operation in operations]

        try:
            return _within(connection, act)
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the thread serves the others, and who asked is told
            if len(operations) > 1:
                return [answer for operation in operations for answer in self._transact(connection, [operation])]
            if _full(error) and self._make_room(connection):
                return self._transact(connection, operations)
            return [(operations[0].told, 0, None, self._failure(error))]

    def _make_room(self, connection: sqlite3.Connection) -> bool:
        """Remove what has expired; whether there was any."""
        try:
            return expire(connection, 1000) > 0
        except sqlite3.Error:
            return False

    def _failure(self, error: Exception) -> StoreError:
        if _full(error):
            return StoreError(f"{self._path}: full at {self._most_bytes} bytes, or the disk is: raise kv_bytes, or free some")
        return StoreError(f"{self._path}: {error}")

    def _tell(self, answers: list[Answer]) -> None:
        self._loop.call_soon_threadsafe(self._answer, answers)

    def _answer(self, answers: list[Answer]) -> None:
        for told, size, value, failure in answers:
            if told is not self._opened:
                self._waiting -= 1
                self._logged(size)
            if told.done():
                continue  # who asked was cancelled
            if failure is not None:
                told.set_exception(failure)
            else:
                told.set_result(value)


def _within(connection: sqlite3.Connection, act: Callable[[sqlite3.Connection], T]) -> T:
    """What `act` returns, in a transaction of its own. Raises what it raises, and then nothing is written."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        value = act(connection)
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
    return value


def expire(connection: sqlite3.Connection, most: int) -> int:
    """Remove at most so many expired entries; returns how many."""
    statement = "DELETE FROM entries WHERE rowid IN (SELECT rowid FROM entries WHERE expires <= ? LIMIT ?)"
    return connection.execute(statement, (time.time(), most)).rowcount


def _full(error: Exception) -> bool:
    return getattr(error, "sqlite_errorname", "") == "SQLITE_FULL"
