"""Keys and values as messages: the last one of a key's subject is what stands.

A write names the sequence of the message that it replaces, and the server takes it only if that is the last one. What was deleted
is a message that says so, and goes away after a minute.
"""

import heapq
import math
import time

from runnerd import check_key, check_rank, check_value

from .connection import Connection, Stored

_EXPIRES = "Runnerd-Expires"
"""When an entry has expired, in milliseconds since 1970: the server's own lives count in seconds."""
_OPERATION = "KV-Operation"
_MARKER_S = 60
_TRIES = 100
"""Writes that lose against others before we give up."""


class JetStreamKeyValues:
    """See `KeyValues` of runnerd for what the methods promise. A revision is a sequence, and when the entry expires."""

    def __init__(self, connection: Connection, bucket: str, value_bytes: int) -> None:
        self.value_bytes = min(value_bytes, connection.payload_bytes)
        self._connection = connection
        self._stream = f"KV_{bucket}"
        self._subject = f"$KV.{bucket}."

    async def get(self, key: str) -> tuple[bytes, str] | None:
        """See `KeyValues.get`."""
        found = await self._connection.last(self._stream, self._of(check_key(key)))
        return (found.data, _revision(found)) if found is not None and _alive(found) else None

    async def put(self, key: str, value: bytes, ttl_s: float | None = None) -> str:
        """See `KeyValues.put`."""
        check_value(key, value, self.value_bytes, ttl_s)
        revision = await self._write(key, value, ttl_s, None)
        assert revision is not None
        return revision

    async def put_if_absent(self, key: str, value: bytes, ttl_s: float | None = None) -> tuple[bool, bytes, str]:
        """See `KeyValues.put_if_absent`."""
        check_value(key, value, self.value_bytes, ttl_s)
        expected = 0
        for _ in range(_TRIES):
            revision = await self._write(key, value, ttl_s, expected)
            if revision is not None:
                return True, value, revision
            found = await self._connection.last(self._stream, self._of(key))
            if found is not None and _alive(found):
                return False, found.data, _revision(found)
            expected = found.sequence if found is not None else 0
        raise self._connection.failure(f"{key}: {_TRIES} writes were beaten by others")

    async def compare_and_set(self, key: str, revision: str, value: bytes, ttl_s: float | None = None) -> str | None:
        """See `KeyValues.compare_and_set`."""
        check_value(key, value, self.value_bytes, ttl_s)
        sequence = _sequence(revision)
        return await self._write(key, value, ttl_s, sequence) if sequence else None

    async def delete(self, key: str, revision: str | None = None) -> bool:
        """See `KeyValues.delete`."""
        subject = self._of(check_key(key))
        for _ in range(_TRIES):
            if revision is not None:
                sequence = _sequence(revision)
            else:
                found = await self._connection.last(self._stream, subject)
                sequence = found.sequence if found is not None and _alive(found) else 0
            if not sequence:
                return False
            headers = {_OPERATION: "DEL", "Nats-TTL": f"{_MARKER_S}s"}
            if await self._connection.publish(subject, b"", headers, sequence) is not None:
                return True
            if revision is not None:
                return False
        raise self._connection.failure(f"{key}: {_TRIES} deletes were beaten by others")

    async def rank(self, ranking: str, member: str, score: float) -> None:
        """See `KeyValues.rank`."""
        check_rank(ranking, member, score)
        await self._connection.publish(self._in(ranking) + _dotted(member), repr(score).encode(), {})

    async def unrank(self, ranking: str, member: str) -> None:
        """See `KeyValues.unrank`."""
        check_rank(ranking, member)
        await self._connection.purge(self._stream, self._in(ranking) + _dotted(member))

    async def ranked(self, ranking: str, until: float = math.inf, most: int = 1000) -> list[tuple[str, float]]:
        """See `KeyValues.ranked`. The whole ranking is read for it."""
        check_key(ranking)
        place = self._in(ranking)
        lowest: list[tuple[float, str]] = []
        async for found in self._connection.scan(self._stream, place + ">"):
            score, member = float(found.data), found.subject.removeprefix(place).replace(".", "/")
            if score <= until:
                lowest.append((score, member))
                if len(lowest) > 2 * most + 1000:
                    lowest = heapq.nsmallest(most, lowest)
        return [(member, score) for score, member in heapq.nsmallest(most, lowest)]

    async def expire(self, most: int = 1000) -> int:  # noqa: ARG002 - there is nothing that could be left over
        """See `KeyValues.expire`. The server removes what has expired by itself."""
        return 0

    async def _write(self, key: str, value: bytes, ttl_s: float | None, expected: int | None) -> str | None:
        headers, expires = {}, 0
        if ttl_s is not None:
            expires = int((time.time() + ttl_s) * 1000)
            headers = {_EXPIRES: str(expires), "Nats-TTL": f"{math.ceil(ttl_s)}s"}
        sequence = await self._connection.publish(self._of(key), value, headers, expected)
        return None if sequence is None else f"{sequence}-{expires}"

    def _of(self, key: str) -> str:
        return self._subject + _dotted(key)

    def _in(self, ranking: str) -> str:
        """The subject that a ranking's members are below: `=` is in no key."""
        return f"{self._subject}={_dotted(ranking)}.=."


def _dotted(key: str) -> str:
    return key.replace("/", ".")


def _alive(found: Stored) -> bool:
    return _OPERATION not in found.headers and not _over(int(found.headers.get(_EXPIRES, 0)))


def _over(expires: int) -> bool:
    return 0 < expires <= time.time() * 1000


def _revision(found: Stored) -> str:
    return f"{found.sequence}-{found.headers.get(_EXPIRES, 0)}"


def _sequence(revision: str) -> int:
    """The sequence of a revision that may still stand, else 0."""
    sequence, _, expires = revision.partition("-")
    if not (sequence.isdecimal() and expires.isdecimal()) or _over(int(expires)):
        return 0
    return int(sequence)
