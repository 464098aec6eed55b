"""Sessions in the key-value store: read, made, changed by compare-and-set, removed; and the rankings that find them again."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from ..errors import StoreError
from ..record import Records
from .head import Head, decoded, encoded
from .names import entity_ranking, head_key, member_of

SESSIONS = "sessions"
"""Ranking of all sessions by when to look whether they have expired."""
STATES = "states"
"""Ranking of the sessions that have a snapshot by when to look after it."""
_MOST_TRIES = 100


class Found(NamedTuple):
    """A session as it was read, with its revision."""

    session: str
    head: Head
    revision: str

    @property
    def key(self) -> str:
        """Its key."""
        return head_key(self.head.owner.tenant, self.session)

    @property
    def member(self) -> str:
        """Its name in the rankings."""
        return member_of(self.head.owner.tenant, self.session, self.head.owner.entity)


class Heads:
    """All sessions' entries. Every method raises StoreError."""

    def __init__(self, records: Records) -> None:
        self._kv = records.kv
        self._patiently = records.patiently

    async def get(self, tenant: str, session: str) -> Found | None:
        """A session, None where there is none."""
        key = head_key(tenant, session)
        found = await self._patiently(lambda: self._kv.get(key))
        return None if found is None else Found(session, decoded(key, found[0]), found[1])

    async def make(self, session: str, head: Head, ttl_s: float) -> Found:
        """Write a new session. Its rankings come with it; whichever fails, the sweeper finds what was written."""
        value, member = encoded(head), member_of(head.owner.tenant, session, head.owner.entity)
        key = head_key(head.owner.tenant, session)
        made, *ranked = await asyncio.gather(
            self._patiently(lambda: self._kv.put_if_absent(key, value)),
            self.look(SESSIONS, member, head.created + ttl_s),
            self.look(entity_ranking(member), member, head.created),
            return_exceptions=True,
        )
        for failure in (made, *ranked):
            if isinstance(failure, BaseException):
                raise failure
        assert not isinstance(made, BaseException)
        _, standing, revision = made
        if standing != value:
            raise StoreError(f"{key}: there is such a session already")
        return Found(session, head, revision)

    async def set(self, found: Found, head: Head) -> Found | None:
        """Write a session in place of what was read; None where it has been changed or removed since."""
        value = encoded(head)
        revision = await self._patiently(lambda: self._kv.compare_and_set(found.key, found.revision, value))
        if revision is not None:
            return Found(found.session, head, revision)
        standing = await self._patiently(lambda: self._kv.get(found.key))
        if standing is not None and standing[0] == value:  # ours: the answer to it was lost
            return Found(found.session, head, standing[1])
        return None

    async def change(self, found: Found, decide: Callable[[Head], Awaitable[Head | None]]) -> tuple[Found, Found] | None:
        """Change a session as `decide` says, which is asked again where others are faster: what it was, and what it is now.

        None where `decide` says so, or the session is gone.
        """
        for _ in range(_MOST_TRIES):
            head = await decide(found.head)
            if head is None:
                return None
            changed = await self.set(found, head)
            if changed is not None:
                return found, changed
            again = await self.get(found.head.owner.tenant, found.session)
            if again is None:
                return None
            found = again
        raise StoreError(f"{found.key}: changed by others all the time")

    async def remove(self, found: Found) -> bool:
        """Remove a session from its entry and its rankings; False where it has been changed since."""
        removed = await self._patiently(lambda: self._kv.delete(found.key, found.revision))
        if removed or await self.get(found.head.owner.tenant, found.session) is None:
            await self.unrank(found.member)
            return True
        return False

    async def unrank(self, member: str) -> None:
        """Take a session out of all rankings; last out of the one by which the sweeper would find it again."""
        await asyncio.gather(self.overlook(STATES, member), self.overlook(entity_ranking(member), member))
        await self.overlook(SESSIONS, member)

    async def look(self, ranking: str, member: str, when: float) -> None:
        """Have a session looked at, at a time."""
        await self._patiently(lambda: self._kv.rank(ranking, member, when))

    async def overlook(self, ranking: str, member: str) -> None:
        """Take a session out of one ranking."""
        await self._patiently(lambda: self._kv.unrank(ranking, member))

    async def ranked(self, ranking: str, until: float, most: int) -> list[tuple[str, float]]:
        """The first of a ranking."""
        return await self._patiently(lambda: self._kv.ranked(ranking, until, most))
