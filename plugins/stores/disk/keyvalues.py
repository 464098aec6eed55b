"""Keys and values in the database: each operation is a few statements within one transaction."""

import math
import sqlite3
import time

from runnerd import StoreError, check_key

from .database import Database, expire


class DiskKeyValues:
    """See `KeyValues` of runnerd for what the methods promise."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, key: str) -> tuple[bytes, str] | None:
        """See `KeyValues.get`."""
        check_key(key)
        return await self._database.ask(lambda connection: _find(connection, key))

    async def put(self, key: str, value: bytes, ttl_s: float | None = None) -> str:
        """See `KeyValues.put`."""
        check_key(key)
        expires = _expires(ttl_s)
        return await self._database.ask(lambda connection: self._set(connection, key, value, expires))

    async def put_if_absent(self, key: str, value: bytes, ttl_s: float | None = None) -> tuple[bool, bytes, str]:
        """See `KeyValues.put_if_absent`."""
        check_key(key)
        expires = _expires(ttl_s)

        def act(connection: sqlite3.Connection) -> tuple[bool, bytes, str]:
            found = _find(connection, key)
            if found is not None:
                return False, *found
            return True, value, self._set(connection, key, value, expires)

        return await self._database.ask(act)

    async def compare_and_set(self, key: str, revision: str, value: bytes, ttl_s: float | None = None) -> str | None:
        """See `KeyValues.compare_and_set`."""
        check_key(key)
        expires = _expires(ttl_s)

        def act(connection: sqlite3.Connection) -> str | None:
            found = _find(connection, key)
            if found is None or found[1] != revision:
                return None
            return self._set(connection, key, value, expires)

        return await self._database.ask(act)

    async def delete(self, key: str) -> None:
        """See `KeyValues.delete`."""
        check_key(key)
        await self._database.ask(lambda connection: connection.execute("DELETE FROM entries WHERE key = ?", (key,)).rowcount)

    async def expire(self, most: int = 1000) -> int:
        """See `KeyValues.expire`."""
        return await self._database.ask(lambda connection: expire(connection, most))

    def _set(self, connection: sqlite3.Connection, key: str, value: bytes, expires: float) -> str:
        revision = self._database.revision()
        connection.execute("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?)", (key, value, revision, expires))
        return str(revision)


def _find(connection: sqlite3.Connection, key: str) -> tuple[bytes, str] | None:
    found = connection.execute("SELECT value, revision FROM entries WHERE key = ? AND expires > ?", (key, time.time())).fetchone()
    return None if found is None else (found[0], str(found[1]))


def _expires(ttl_s: float | None) -> float:
    if ttl_s is None:
        return math.inf
    if not (math.isfinite(ttl_s) and ttl_s > 0):
        raise StoreError(f"ttl_s: {ttl_s} must be a finite number of seconds above 0")
    return time.time() + ttl_s
