"""Keys and values on the server: a string each, in which the revision stands before the value; a sorted set for each ranking."""

import math

from runnerd import check_key, check_rank, check_value, new_id

from .connection import Connection, Script

_REVISION = len(new_id())
_SET = """
if ARGV[2] == '0' then redis.call('SET', KEYS[1], ARGV[1]) else redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
"""
# ARGV: revision and value, milliseconds, the revision alone. An entry that has it already was written by this very call,
# which the client sent once more.
_PUT_IF_ABSENT = Script(
    """
local standing = redis.call('GETRANGE', KEYS[1], 0, #ARGV[3] - 1)
if standing ~= '' and standing ~= ARGV[3] then return redis.call('GET', KEYS[1]) end
"""
    + _SET
)
_COMPARE_AND_SET = Script(
    """
local standing = redis.call('GETRANGE', KEYS[1], 0, #ARGV[3] - 1)
if standing ~= ARGV[3] and standing ~= ARGV[4] then return 0 end
"""
    + _SET
    + "return 1"
)
_DELETE = Script(
    """
if redis.call('GETRANGE', KEYS[1], 0, #ARGV[1] - 1) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""
)
_LONGEST_MS = 10**15
"""Some thirty thousand years: the server counts in 64 bits."""


class RedisKeyValues:
    """See `KeyValues` of runnerd for what the methods promise."""

    def __init__(self, connection: Connection, *, prefix: str, value_bytes: int) -> None:
        self.value_bytes = value_bytes
        self._connection = connection
        self._prefix = prefix

    async def get(self, key: str) -> tuple[bytes, str] | None:
        """See `KeyValues.get`."""
        found = await self._connection.ask("get", self._entry(key))
        return None if found is None else _parts(found)

    async def put(self, key: str, value: bytes, ttl_s: float | None = None) -> str:
        """See `KeyValues.put`."""
        check_value(key, value, self.value_bytes, ttl_s)
        revision = new_id()
        await self._connection.ask("set", self._entry(key), revision.encode() + value, px=_ms(ttl_s) or None)
        return revision

    async def put_if_absent(self, key: str, value: bytes, ttl_s: float | None = None) -> tuple[bool, bytes, str]:
        """See `KeyValues.put_if_absent`."""
        check_value(key, value, self.value_bytes, ttl_s)
        revision = new_id()
        arguments = (revision.encode() + value, _ms(ttl_s), revision.encode())
        found = await self._connection.run(_PUT_IF_ABSENT, self._entry(key), *arguments)
        return (True, value, revision) if found is None else (False, *_parts(found))

    async def compare_and_set(self, key: str, revision: str, value: bytes, ttl_s: float | None = None) -> str | None:
        """See `KeyValues.compare_and_set`."""
        check_value(key, value, self.value_bytes, ttl_s)
        if len(revision) != _REVISION:
            return None
        new = new_id()
        arguments = (new.encode() + value, _ms(ttl_s), new.encode(), revision.encode())
        return new if await self._connection.run(_COMPARE_AND_SET, self._entry(key), *arguments) else None

    async def delete(self, key: str, revision: str | None = None) -> bool:
        """See `KeyValues.delete`."""
        if revision is None:
            return bool(await self._connection.ask("delete", self._entry(key)))
        entry = self._entry(key)
        return len(revision) == _REVISION and bool(await self._connection.run(_DELETE, entry, revision.encode()))

    async def rank(self, ranking: str, member: str, score: float) -> None:
        """See `KeyValues.rank`."""
        check_rank(ranking, member, score)
        await self._connection.ask("zadd", self._ranking(ranking), {member: score})

    async def unrank(self, ranking: str, member: str) -> None:
        """See `KeyValues.unrank`."""
        check_rank(ranking, member)
        await self._connection.ask("zrem", self._ranking(ranking), member)

    async def ranked(self, ranking: str, until: float = math.inf, most: int = 1000) -> list[tuple[str, float]]:
        """See `KeyValues.ranked`."""
        found = await self._connection.ask("zrangebyscore", self._ranking(ranking), "-inf", until, start=0, num=most, withscores=True)
        return [(member.decode(), float(score)) for member, score in found]

    async def expire(self, most: int = 1000) -> int:  # noqa: ARG002 - nothing is left to do
        """See `KeyValues.expire`. The server removes them by itself."""
        return 0

    def _entry(self, key: str) -> str:
        return f"{self._prefix}entry:{check_key(key)}"

    def _ranking(self, key: str) -> str:
        return f"{self._prefix}ranking:{check_key(key)}"


def _parts(stored: bytes) -> tuple[bytes, str]:
    return stored[_REVISION:], stored[:_REVISION].decode(errors="replace")


def _ms(ttl_s: float | None) -> int:
    """Milliseconds; 0 stands for ever."""
    return 0 if ttl_s is None else min(max(1, math.ceil(ttl_s * 1000)), _LONGEST_MS)
