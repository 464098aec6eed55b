"""Keys and values in the database: each operation is a few statements within one transaction."""

import math
import sqlite3
import time

from runnerd import check_key, check_rank, check_value

from .database import LONG, SMALL_BYTES, Database, expire


class DiskKeyValues:
    """See `KeyValues` of runnerd for what the methods promise."""

    def __init__(self, database: Database, *, value_bytes: int) -> None:
        self.value_bytes = value_bytes
        self._database = database

    async def get(self, key: str) -> tuple[bytes, str] | None:
        """See `KeyValues.get`."""
        check_key(key)
        small, found = await self._database.ask(lambda connection: _find_small(connection, key), 0)
        return found if small else await self._database.ask(lambda connection: _find(connection, key), LONG)

    async def put(self, key: str, value: bytes, ttl_s: float | None = None) -> str:
        """See `KeyValues.put`."""
        check_value(key, value, self.value_bytes, ttl_s)
        expires = _expires(ttl_s)
        return await self._database.ask(lambda connection: self._set(connection, key, value, expires), len(value))

    async def put_if_absent(self, key: str, value: bytes, ttl_s: float | None = None) -> tuple[bool, bytes, str]:
        """See `KeyValues.put_if_absent`."""
        check_value(key, value, self.value_bytes, ttl_s)
        expires = _expires(ttl_s)

        def act(connection: sqlite3.Connection) -> tuple[bool, bytes, str]:
            found = _find(connection, key)
            if found is not None:
                return False, *found
            return True, value, self._set(connection, key, value, expires)

        return await self._database.ask(act, len(value))

    async def compare_and_set(self, key: str, revision: str, value: bytes, ttl_s: float | None = None) -> str | None:
        """See `KeyValues.compare_and_set`."""
        check_value(key, value, self.value_bytes, ttl_s)
        expires = _expires(ttl_s)

        def act(connection: sqlite3.Connection) -> str | None:
            if _revision(connection, key) != revision:
                return None
            return self._set(connection, key, value, expires)

        return await self._database.ask(act, len(value))

    async def delete(self, key: str, revision: str | None = None) -> bool:
        """See `KeyValues.delete`."""
        check_key(key)

        def act(connection: sqlite3.Connection) -> bool:
            standing = _revision(connection, key)
            if standing is None or revision not in (None, standing):
                return False
            connection.execute("DELETE FROM entries WHERE key = ?", (key,))
            return True

        return await self._database.ask(act, LONG)  # all pages of a large value are looked at

    async def rank(self, ranking: str, member: str, score: float) -> None:
        """See `KeyValues.rank`."""
        check_rank(ranking, member, score)
        await self._write("INSERT OR REPLACE INTO ranks VALUES (?, ?, ?)", ranking, member, score)

    async def unrank(self, ranking: str, member: str) -> None:
        """See `KeyValues.unrank`."""
        check_rank(ranking, member)
        await self._write("DELETE FROM ranks WHERE ranking = ? AND member = ?", ranking, member)

    async def ranked(self, ranking: str, until: float = math.inf, most: int = 1000) -> list[tuple[str, float]]:
        """See `KeyValues.ranked`."""
        check_key(ranking)
        statement = "SELECT member, score FROM ranks WHERE ranking = ? AND score <= ? ORDER BY score, member LIMIT ?"
        return await self._database.ask(lambda connection: connection.execute(statement, (ranking, until, most)).fetchall(), LONG)

    async def expire(self, most: int = 1000) -> int:
        """See `KeyValues.expire`."""
        return await self._database.ask(lambda connection: expire(connection, most), LONG)

    async def _write(self, statement: str, *values: object) -> None:
        await self._database.ask(lambda connection: connection.execute(statement, values).rowcount, 0)

    def _set(self, connection: sqlite3.Connection, key: str, value: bytes, expires: float) -> str:
        revision = self._database.revision()
        connection.execute("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?)", (key, value, revision, expires))
        return str(revision)


def _find_small(connection: sqlite3.Connection, key: str) -> tuple[bool, tuple[bytes, str] | None]:
    """Whether an entry is small, or not there at all; and the entry, if it is. What is large is not read."""
    statement = "SELECT CASE WHEN length(value) <= ? THEN value END, revision FROM entries WHERE key = ? AND expires > ?"
    found = connection.execute(statement, (SMALL_BYTES, key, time.time())).fetchone()
    if found is None:
        return True, None
    return found[0] is not None, (found[0], str(found[1]))


def _find(connection: sqlite3.Connection, key: str) -> tuple[bytes, str] | None:
    found = connection.execute("SELECT value, revision FROM entries WHERE key = ? AND expires > ?", (key, time.time())).fetchone()
    return None if found is None else (found[0], str(found[1]))


def _revision(connection: sqlite3.Connection, key: str) -> str | None:
    found = connection.execute("SELECT revision FROM entries WHERE key = ? AND expires > ?", (key, time.time())).fetchone()
    return None if found is None else str(found[0])


def _expires(ttl_s: float | None) -> float:
    return math.inf if ttl_s is None else time.time() + ttl_s
