"""Removes what has expired, archives snapshots that nobody uses, and removes blobs that no session names.

One daemon at a time sweeps, by a key with a short life; two at once would only do the work twice. A session's place in its ranking
is when to look at it, and is moved then: using a session need not touch it.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import structlog

from ..errors import RunnerdError
from ..record import Records
from ..store import Blob, Blobs
from .head import Head, State, all_files, due, living, state_due, state_ends
from .heads import SESSIONS, STATES, Found
from .names import parts_of
from .visits import Visits

log = structlog.get_logger("runnerd.workspace")

_AT_ONCE = 16
_LISTED = 1000
_SHORTEST_LEASE_S = 60.0
_CURSOR = "sweep/cursor"
"""Key of how far the walk through the blobs has come."""
_KINDS = ("files/", "states/")


class Sweeper:
    """All that is done in turns, and how often it was."""

    def __init__(self, visits: Visits, records: Records, blobs: Blobs) -> None:
        self.counts: Counter[str] = Counter(sessions_expired=0, states_archived=0, states_expired=0, orphans_removed=0)
        self.turns = 0
        self.spent_s = 0.0
        """What all turns took together."""
        self._visits = visits
        self._heads = visits.heads
        self._contents = visits.contents
        self._settings = visits.settings
        self._records = records
        self._blobs = blobs

    def loops(self) -> Iterable[Coroutine[Any, Any, None]]:
        """What is done again and again, until it is cancelled."""
        yield self._every(self._settings.sessions.cleanup_s, "sessions", self.clean)
        if self._settings.state.enabled:
            yield self._every(self._settings.state.archive_check_s, "states", self.look_after_states)

    async def clean(self) -> None:
        """Remove sessions that have expired, and blobs that no session names. Raises StoreError."""
        await self._due(SESSIONS, self._look)
        await self._remove_orphans()

    async def look_after_states(self) -> None:
        """Archive and remove snapshots whose time has come. Raises StoreError."""
        await self._due(STATES, self._look_after_state)

    async def _every(self, pause_s: float, name: str, act: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(pause_s)
            try:
                async with self._lease(name, max(pause_s, _SHORTEST_LEASE_S)) as mine:
                    if mine:
                        await self._turn(act)
            except RunnerdError as error:
                log.warning("sweeping stopped short, to be tried again", what=name, reason=str(error))

    async def _turn(self, act: Callable[[], Awaitable[None]]) -> None:
        began = time.perf_counter()
        try:
            await act()
        finally:
            self.turns += 1
            self.spent_s += time.perf_counter() - began

    @asynccontextmanager
    async def _lease(self, name: str, lease_s: float) -> AsyncGenerator[bool, None]:
        """Whether no other daemon sweeps the same now."""
        kv, key = self._records.kv, f"sweep/{name}"
        mine, _, revision = await self._records.patiently(lambda: kv.put_if_absent(key, self._records.by.encode(), lease_s))
        try:
            yield mine
        finally:
            if mine:
                await self._records.patiently(lambda: kv.delete(key, revision))

    async def _due(self, ranking: str, look: Callable[[str, float], Awaitable[None]]) -> None:
        """Look at those of a ranking whose time has come, so many at most."""
        left = self._settings.sessions.cleanup_most
        while left > 0:
            now = time.time()
            members = [member for member, _ in await self._heads.ranked(ranking, now, min(left, _AT_ONCE))]
            if not members:
                return
            for failure in await asyncio.gather(*(look(member, now) for member in members), return_exceptions=True):
                if isinstance(failure, BaseException):
                    raise failure
            left -= len(members)

    async def _look(self, member: str, now: float) -> None:
        """Look whether a session has expired, whole or in part; if not, when to look again."""
        settings = self._settings
        found = await self._heads.get(*parts_of(member))
        if found is None:
            await self._heads.unrank(member)
            return
        free = await self._visits.free(found)
        lives = None if free is None else living(free, now, settings.sessions.ttl_s, settings.state)
        if free is None:
            await self._heads.look(SESSIONS, member, now + settings.sessions.cleanup_s)
        elif lives is None:
            if await self._visits.bury(Found(found.session, free, found.revision)):
                self.counts["sessions_expired"] += 1
        elif lives == found.head or await self._set(Found(found.session, free, found.revision), lives) is not None:
            when = due(lives, now, settings.sessions.ttl_s, settings.state)
            await self._heads.look(SESSIONS, member, max(when, now + 1))

    async def _look_after_state(self, member: str, now: float) -> None:
        found = await self._heads.get(*parts_of(member))
        if found is None or found.head.state is None:
            await self._heads.overlook(STATES, member)
            return
        settings, head, state = self._settings.state, found.head, found.head.state
        when = state_due(head, settings)
        if head.running is not None:
            when = now + settings.archive_check_s
        elif when > now:
            await self._warm(found, state)
        elif state_ends(head, settings) <= now:
            if await self._set(found, msgspec.structs.replace(head, state=None)) is not None:
                self.counts["states_expired"] += 1
            return  # the next turn finds it without a snapshot, or with a new one
        else:
            archived = await self._archive(found, state, now)
            when = state_due(archived, settings) if archived else now + 1
        await self._heads.look(STATES, member, when)

    async def _warm(self, found: Found, state: State) -> None:
        """A snapshot that is in use lives on where it lies."""
        if state.in_blobs or state.inline:
            return
        tenant = found.head.owner.tenant
        value = await self._contents.hot(tenant, found.session, state)
        if value is not None:
            await self._contents.warm(tenant, found.session, state, value)

    async def _archive(self, found: Found, state: State, now: float) -> Head | None:
        """Move a snapshot to the blob store; None where the session has been used meanwhile."""
        tenant, session = found.head.owner.tenant, found.session
        if not state.in_blobs:
            value = await self._contents.hot(tenant, session, state)
            if value is None:
                await self._set(found, msgspec.structs.replace(found.head, state=None))
                return None
            await self._contents.cool(tenant, session, state, value)
        archived = msgspec.structs.replace(state, in_blobs=True, inline=b"", archived=now)
        changed = await self._heads.set(found, msgspec.structs.replace(found.head, state=archived))
        if changed is None:
            if not state.in_blobs:
                await self._contents.drop(tenant, session, state=archived)
            return None
        if not state.in_blobs:
            await self._contents.drop(tenant, session, state=state)
        self.counts["states_archived"] += 1
        return changed.head

    async def _set(self, found: Found, head: Head) -> Found | None:
        changed = await self._heads.set(found, head)
        if changed is not None:
            self._visits.tidy(found, changed)
        return changed

    async def _remove_orphans(self) -> None:
        """Walk on through the blobs, from where the last turn stopped, and remove what is old and named by no session."""
        kv = self._records.kv
        found = await self._records.patiently(lambda: kv.get(_CURSOR))
        cursor, left = found[0].decode() if found else "", self._settings.sessions.cleanup_most
        async for blob in self._walk(cursor):
            if left == 0:
                break
            left -= 1
            cursor = blob.key
            if blob.modified < time.time() - self._settings.sessions.orphan_s and not await self._is_named(blob.key):
                await self._blobs.delete(blob.key)
                self.counts["orphans_removed"] += 1
        else:
            await self._records.patiently(lambda: kv.delete(_CURSOR))
            return
        await self._records.patiently(lambda: kv.put(_CURSOR, cursor.encode()))

    async def _walk(self, after: str) -> AsyncIterator[Blob]:
        """All blobs of sessions whose keys come behind `after`."""
        for kind in _KINDS:
            if after > kind and not after.startswith(kind):
                continue
            cursor = after if after.startswith(kind) else ""
            while blobs := await self._blobs.list(kind, cursor, _LISTED):
                for blob in blobs:
                    yield blob
                cursor = blobs[-1].key

    async def _is_named(self, key: str) -> bool:
        """Whether a session names a blob, or may do so as soon as the job that works in it has ended."""
        kind, tenant, session, version = key.split("/")
        found = await self._heads.get(tenant, session)
        if found is None:
            return False
        head = found.head
        if head.running is not None:
            return True
        if kind == "files":
            return any(file.id == version for file in all_files(head))
        return head.state is not None and head.state.version == version
