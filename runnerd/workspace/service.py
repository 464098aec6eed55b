"""What ingresses ask of sessions. See `sessions.Sessions` for what the methods promise."""

import asyncio
import builtins
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import cast

import msgspec

from ..errors import Conflict, NotFound, OverLimit
from ..job import Stored
from ..sessions import Owner, Session, Snapshot
from .files import Meter
from .head import Head, all_files, described, no_room, state_due, with_file, without_file
from .heads import SESSIONS, STATES, Found
from .names import content_type_of, entity_ranking, member_of, parts_of, safe_name
from .visits import Visits

_RENEWED = 0.05
"""A session whose use is renewed only lives longer by so much of its life: reading need not write each time."""
_AT_ONCE = 16


class SessionService:
    """See `sessions.Sessions`."""

    def __init__(self, visits: Visits) -> None:
        self._visits = visits
        self._heads = visits.heads
        self._contents = visits.contents
        self._settings = visits.settings

    async def create(self, owner: Owner) -> Session:
        """See `Sessions.create`."""
        return self._described(await self._visits.make(owner))

    async def find(self, owner: Owner, session: str) -> Session:
        """See `Sessions.find`."""
        return self._described(await self._used(await self._seen(owner, session)))

    async def list(self, owner: Owner, most: int = 100) -> list[Session]:
        """See `Sessions.list`."""
        ranking = entity_ranking(member_of(owner.tenant, "any", owner.entity))
        return await self._ranked(ranking, owner, most)

    async def all(self, most: int) -> "builtins.list[Session]":
        """At most so many sessions of all tenants, those first that expire first. For the people who run the daemon."""
        return await self._ranked(SESSIONS, None, most)

    async def look(self, owner: Owner, session: str) -> Session:
        """A session, which this is no use of. Raises NotFound."""
        return self._described(await self._seen(owner, session))

    async def delete(self, owner: Owner, session: str) -> None:
        """See `Sessions.delete`."""
        while not await self._visits.bury(await self._seen(owner, session)):
            pass  # it was used meanwhile

    async def upload(self, owner: Owner, session: str, name: str, chunks: AsyncIterator[bytes], content_type: str = "") -> Stored:
        """See `Sessions.upload`."""
        limits = self._visits.limits
        name = safe_name(name, "name", limits.filename_bytes)
        found = await self._seen(owner, session)
        self._check_room(found.head, name, 0)
        meter = Meter(
            chunks, limits.file_bytes, f"file {name!r}: larger than {limits.file_bytes} bytes: raise the daemon's setting limits.file_bytes"
        )
        content_type = content_type_of(name, content_type)
        file = await self._contents.put_file(owner.tenant, session, meter, content_type)
        stored = Stored(
            id=file,
            session=session,
            name=name,
            size=meter.size,
            content_type=content_type,
            sha256=meter.digest,
            created=time.time(),
        )

        async def decide(head: Head) -> Head:
            self._check_room(head, name, stored.size)
            return _use(with_file(head, stored, self._settings.files))

        try:
            await self._change(found, decide)
        except (NotFound, OverLimit):  # after any other failure it may be named all the same; if not, the sweeper finds it
            self._visits.later(lambda: self._contents.drop(owner.tenant, session, [file]))
            raise
        return stored

    async def download(
        self, owner: Owner, session: str, file: str, start: int = 0, end: int | None = None
    ) -> tuple[Stored, AsyncIterator[bytes]]:
        """See `Sessions.download`."""
        found = await self._used(await self._seen(owner, session))
        stored = _file(found.head, file)
        return stored, _there(self._contents.file(owner.tenant, session, file, start, end), _no_file(file))

    async def remove(self, owner: Owner, session: str, file: str) -> None:
        """See `Sessions.remove`."""

        async def decide(head: Head) -> Head:
            _file(head, file)
            return _use(without_file(head, file))

        await self._change(await self._seen(owner, session), decide)

    async def load(self, owner: Owner, session: str) -> tuple[Snapshot, AsyncIterator[bytes]]:
        """See `Sessions.load`."""
        found = await self._used(await self._seen(owner, session))
        if found.head.state is None:
            raise NotFound(_NO_STATE)
        snapshot = self._snapshot(found)
        return snapshot, _there(await self._contents.state(owner.tenant, session, found.head.state), _NO_STATE)

    async def save(self, owner: Owner, session: str, chunks: AsyncIterator[bytes], expected: str | None = None) -> Snapshot:
        """See `Sessions.save`."""
        found = await self._seen(owner, session)
        _check_state(found.head, expected)
        most = self._settings.state.max_bytes
        meter = Meter(chunks, most, f"state: larger than {most} bytes: raise the daemon's setting state.max_bytes")
        state = await self._contents.put_state(owner.tenant, session, meter, time.time())

        async def decide(head: Head) -> Head:
            _check_state(head, expected)
            return _use(msgspec.structs.replace(head, state=state))

        try:
            changed = await self._change(found, decide)
        except (NotFound, Conflict):
            self._visits.later(lambda: self._contents.drop(owner.tenant, session, state=state))
            raise
        await self._heads.look(STATES, changed.member, state_due(changed.head, self._settings.state))
        return self._snapshot(changed)

    async def forget(self, owner: Owner, session: str, expected: str | None = None) -> None:
        """See `Sessions.forget`."""

        async def decide(head: Head) -> Head:
            _check_state(head, expected)
            return _use(msgspec.structs.replace(head, state=None))

        await self._change(await self._seen(owner, session), decide)

    async def _ranked(self, ranking: str, owner: Owner | None, most: int) -> "builtins.list[Session]":
        places = [parts_of(member) for member, _ in await self._heads.ranked(ranking, math.inf, most)]
        sessions = []
        for start in range(0, len(places), _AT_ONCE):
            several = places[start : start + _AT_ONCE]
            found = await asyncio.gather(*(self._visits.see(owner or Owner(tenant=tenant), session) for tenant, session in several))
            sessions += [self._described(one) for one in found if one is not None]
        return sessions

    async def _seen(self, owner: Owner, session: str) -> Found:
        found = await self._visits.see(owner, session)
        if found is None:
            raise NotFound(f"there is no session {session[:80]!r} for this owner: it was removed or has expired")
        return found

    async def _used(self, found: Found) -> Found:
        """A session whose life begins anew, unless it did so just now."""
        head = _use(found.head)
        if head.used - found.head.used < _RENEWED * min(self._settings.sessions.ttl_s, self._settings.state.ttl_s):
            return found
        return await self._heads.set(found, head) or found  # who was faster has used it as well

    async def _change(self, found: Found, decide: Callable[[Head], Awaitable[Head]]) -> Found:
        change = await self._heads.change(found, decide)
        if change is None:
            raise NotFound(f"session {found.session} was removed meanwhile")
        self._visits.tidy(*change)
        return change[1]

    def _check_room(self, head: Head, name: str, size: int) -> None:
        refusal = no_room(head.files, name, size, self._settings.files)
        if refusal:
            raise OverLimit(f"file {name!r}: {refusal}")

    def _described(self, found: Found) -> Session:
        return described(found.session, found.head, self._settings.sessions.ttl_s, self._settings.state)

    def _snapshot(self, found: Found) -> Snapshot:
        snapshot = self._described(found).snapshot
        assert snapshot is not None
        return snapshot


_NO_STATE = "the session has no snapshot"


def _no_file(file: str) -> str:
    return f"there is no file {file[:80]!r} in the session: it was removed"


def _use(head: Head) -> Head:
    return msgspec.structs.replace(head, used=max(head.used, time.time()))


def _file(head: Head, file: str) -> Stored:
    found = next((one for one in all_files(head) if one.id == file), None)
    if found is None:
        raise NotFound(_no_file(file))
    return found


def _check_state(head: Head, expected: str | None) -> None:
    """Raises Conflict where a snapshot is not to be changed."""
    standing = head.state.hash if head.state else ""
    if expected is not None and expected != standing:
        raise Conflict(f"another snapshot stands there, {standing or 'none'}, and not {expected[:80] or 'none'}: load it first")
    if head.running is not None:
        raise Conflict(f"job {head.running.job} works in the session: try again when it has ended")


async def _there(chunks: AsyncIterator[bytes], refusal: str) -> AsyncGenerator[bytes, None]:
    """A stream that says in our words that what it reads is gone."""
    try:
        async with aclosing(cast(AsyncGenerator[bytes, None], chunks)) as open_chunks:
            async for chunk in open_chunks:
                yield chunk
    except KeyError:
        raise NotFound(refusal) from None
