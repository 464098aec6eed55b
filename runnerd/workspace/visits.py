"""Takes sessions for jobs: one job at a time in each, also across daemons; new ones where none fits.

In this daemon jobs stand in line, see `lines`. Across daemons the session's entry says which job works in it and which daemon runs
that. One that lives is waited for; from one that died the session is taken, after its job's record was asked whether the job ended.
"""

import asyncio
import math
import time
from asyncio import TaskGroup
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import structlog

from ..errors import OverLimit, Rejected, StoreError
from ..job import TOKEN, Job
from ..limits import LimitSettings
from ..nursery import open_nursery
from ..record import Entry, Records
from ..sessions import Owner
from .desk import Input
from .files import Contents
from .head import Head, Left, Running, all_files, dropped, freed, left_of, living, moved, taken, visible
from .heads import Found, Heads
from .inputs import laid_out
from .lines import Lines
from .names import entity_ranking, member_of, new_token, parts_of
from .settings import WorkspaceSettings
from .visit import Visit

log = structlog.get_logger("runnerd.workspace")

_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 0.5
_MOST_CHORES = 1000
_LOOKED_AT = 100
"""Sessions of an entity with too many that are looked at whether they live, the eldest first."""


class Visits:
    """What it takes to have jobs in sessions."""

    def __init__(
        self, records: Records, heads: Heads, contents: Contents, *, settings: WorkspaceSettings, limits: LimitSettings, tasks: TaskGroup
    ) -> None:
        """`tasks`: where what need not be waited for is done."""
        self.heads = heads
        self.contents = contents
        self.settings = settings
        self.limits = limits
        self.lines = Lines()
        self.made = 0
        """Sessions that were made."""
        self.inside: set[str] = set()
        """Keys of the sessions that jobs of this daemon work in."""
        self._records = records
        self._tasks = tasks
        self._chores = 0
        self._owed: dict[str, Callable[[], Awaitable[None]]] = {}

    async def enter(self, job: Job, entry: Entry | None, *, ahead: bool = False) -> Visit:
        """Take the job's session, or a new one, as soon as nobody works in it. `ahead`: the job starts at once, and loads its snapshot.

        Raises Rejected where the job mounts what it may not have, or its entity has too many sessions, and StoreError.
        """
        owner = Owner(tenant=job.tenant, user=job.user, entity=job.entity)
        mounted = await self._mounted(job, owner)
        running = Running(job=job.id, by=self._records.by, recorded=entry is not None)
        warnings: tuple[str, ...] = ()
        ahead = ahead and job.state and self.settings.state.enabled
        found, snapshot = await self._take(owner, job.session, running, ahead) if job.session else (None, None)
        if found is None:
            if job.session:
                warnings = (f"session {job.session} does not exist or has expired: this job started a new one",)
            found = await self.make(owner, running)
        self.inside.add(found.key)
        inputs, conflicts = laid_out(found.head, mounted, job)
        return Visit(self, job, found, entry, inputs, (*warnings, *conflicts), snapshot)

    async def make(self, owner: Owner, running: Running | None = None) -> Found:
        """A new session. Raises OverLimit and StoreError."""
        await self._check_entity(owner)
        now = time.time()
        head = Head(owner=owner, created=now, used=now)
        head = head if running is None else taken(head, running, now)
        session = new_token(self.settings.sessions.id_length)
        try:
            made = await self.heads.make(session, head, self.settings.sessions.ttl_s)
        except BaseException:
            self._release(Found(session, head, ""))
            raise
        self.made += 1
        return made

    async def see(self, asker: Owner, session: str) -> Found | None:
        """A session as the one who asks may see it, with what jobs that ended left there. Raises StoreError."""
        found = await self.heads.get(asker.tenant, session) if TOKEN.fullmatch(session) else None
        while found is not None and visible(asker, found.head.owner):
            head = await self._caught_up(found) or found.head
            head_now = living(head, time.time(), self.settings.sessions.ttl_s, self.settings.state)
            if head_now is None:
                return None
            if head == found.head:
                return Found(session, head_now, found.revision)
            changed = await self.heads.set(found, head)
            if changed is not None:
                self.tidy(found, changed)
            found = changed or await self.heads.get(asker.tenant, session)
        return None

    async def free(self, found: Found) -> Head | None:
        """A session as it is where nobody works in it any more; None where somebody does. Raises StoreError."""
        head, running = found.head, found.head.running
        if running is None:
            return head
        caught_up = await self._caught_up(found)
        if caught_up is not None:
            return caught_up
        if found.key in self.inside if running.by == self._records.by else await self._alive(running.by):
            return None
        if running.recorded:
            entry = await self._records.find(head.owner.tenant, running.job)
            if entry is not None and await entry.take_away() is not None:
                return self._moved(head, entry)
        return freed(head, head.fence)

    async def bury(self, found: Found) -> bool:
        """Remove a session of which nothing lives any more, with all its versions; False where it has been used meanwhile."""
        if not await self.heads.remove(found):
            return False
        gone = Found(found.session, msgspec.structs.replace(found.head, files=(), older=(), state=None), "")
        self.tidy(found, gone)
        return True

    def tidy(self, before: Found, after: Found) -> None:
        """Remove, in time, what a session had and has no more."""
        old, new = before.head.state, after.head.state
        gone = None if old is None or (new is not None and new.version == old.version) else old
        files = [file.id for file in dropped(before.head, after.head)]
        if files or gone:
            tenant = before.head.owner.tenant
            self.later(lambda: self.contents.drop(tenant, before.session, files, gone))

    def later(self, chore: Callable[[], Awaitable[None]]) -> None:
        """Do what nobody waits for. Where too much waits already it is left to the sweeper."""
        if self._chores < _MOST_CHORES:
            self._chores += 1
            self._tasks.create_task(self._chore(chore))

    async def soon(self, act: Callable[[], Awaitable[None]], what: str) -> None:
        """Do something that has to be done; where the store fails, `settle_owed` tries again."""
        try:
            await act()
        except StoreError as error:
            log.warning("the store fails, to be tried again", what=what, reason=str(error))
            if len(self._owed) < _MOST_CHORES:
                self._owed[what] = act

    async def settle_owed(self) -> None:
        """Try again what the store did not take. Raises StoreError at the first that it still does not."""
        for what, act in list(self._owed.items()):
            await act()
            self._owed.pop(what, None)

    async def _chore(self, chore: Callable[[], Awaitable[None]]) -> None:
        try:
            await chore()
        except StoreError as error:
            log.warning("left to the sweeper", reason=str(error))
        finally:
            self._chores -= 1

    async def _alive(self, by: str) -> bool:
        return await self._records.patiently(lambda: self._records.alive(by))

    async def _take(self, owner: Owner, session: str, running: Running, ahead: bool) -> tuple[Found | None, bytes | None]:
        """Take a session in its turn, with its snapshot where that is read ahead; None where there is none for this owner."""
        pause_s = _PAUSE_S
        while TOKEN.fullmatch(session):
            found = await self.heads.get(owner.tenant, session)
            if found is None or not visible(owner, found.head.owner):
                return None, None
            head = await self.free(found)
            if head is None:
                await asyncio.sleep(pause_s)  # no store tells when an entry of another daemon's changes
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
                continue
            now = time.time()
            head = living(head, now, self.settings.sessions.ttl_s, self.settings.state)
            if head is None:
                return None, None
            async with open_nursery() as tasks:  # one round trip for both
                reading = tasks.create_task(self.contents.ahead(owner.tenant, session, head.state if ahead else None))
                changed = await self._set(found, taken(head, running, now))
            if changed is not None:
                self.tidy(found, changed)
                return changed, reading.result()
        return None, None

    async def _set(self, found: Found, head: Head) -> Found | None:
        """Take a session; where that fails or is cancelled, it may be taken all the same."""
        try:
            return await self.heads.set(found, head)
        except BaseException:
            self._release(Found(found.session, head, ""))
            raise

    def _release(self, taken: Found) -> None:
        """Give back a session that may have been taken, and that no job works in."""

        async def decide(head: Head) -> Head | None:
            return freed(head, taken.head.fence) if head.running == taken.head.running else None

        async def release() -> None:
            found = await self.heads.get(taken.head.owner.tenant, taken.session)
            if found is not None:
                await self.heads.change(found, decide)

        if taken.head.running is not None:
            self.later(lambda: self.soon(release, f"giving back session {taken.session}"))

    async def _caught_up(self, found: Found) -> Head | None:
        """A session with what its job left, where that job's record says that it ended; None where it does not."""
        head, running = found.head, found.head.running
        if running is None or not running.recorded:
            return None
        entry = await self._records.find(head.owner.tenant, running.job)
        return None if entry is None or entry.record.result is None else self._moved(head, entry)

    def _moved(self, head: Head, entry: Entry) -> Head | None:
        left = left_of(entry.key, entry.record.left) or Left(fence=head.fence)
        return moved(head, left, time.time(), self.settings.files) or freed(head, head.fence)

    async def _mounted(self, job: Job, owner: Owner) -> list[tuple[str, Input]]:
        """The files that the job mounts, each with the name that it asks for. Raises Rejected."""
        if len(job.mounts) > self.limits.input_files:
            raise Rejected(
                f"mounts: {len(job.mounts)} given, at most {self.limits.input_files} allowed: raise the daemon's setting limits.input_files"
            )
        sessions = list(dict.fromkeys(mount.session for mount in job.mounts))
        seen = dict(zip(sessions, await asyncio.gather(*(self.see(owner, session) for session in sessions)), strict=True))
        mounted = []
        for i, mount in enumerate(job.mounts):
            found = seen[mount.session]
            file = next((file for file in all_files(found.head) if file.id == mount.id), None) if found else None
            if file is None:
                raise Rejected(
                    f"mounts[{i}]: there is no file {mount.id[:80]!r} in session {mount.session[:80]!r} for this owner: "
                    "it was removed or has expired, so upload it again"
                )
            mounted.append((mount.name or file.name, Input(owner.tenant, file)))
        return mounted

    async def _check_entity(self, owner: Owner) -> None:
        """Raises OverLimit where an entity has as many sessions as it may have."""
        most = self.settings.sessions.most_per_entity
        if not owner.entity:
            return
        ranking = entity_ranking(member_of(owner.tenant, "any", owner.entity))
        members = await self.heads.ranked(ranking, math.inf, most)
        if len(members) < most or await self._bury_some([member for member, _ in members[:_LOOKED_AT]]):
            return
        raise OverLimit(
            f"entity: {owner.entity[:80]!r} has {most} sessions already: delete one, or raise the daemon's setting sessions.most_per_entity"
        )

    async def _bury_some(self, members: Sequence[str]) -> bool:
        """Remove those of some sessions of which nothing lives any more; whether there were any."""
        buried = False
        for member in members:
            found = await self.heads.get(*parts_of(member))
            if found is None:
                await self.heads.unrank(member)
                buried = True
            elif living(found.head, time.time(), self.settings.sessions.ttl_s, self.settings.state) is None:
                buried = await self.bury(found) or buried
        return buried
