"""Opens all of it: sessions, files and state, over one key-value store and one blob store."""

from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any

from ..job import Job
from ..limits import LimitSettings
from ..nursery import open_nursery
from ..record import Entry, Records
from ..sessions import Owner
from ..store import Blobs
from .files import Contents
from .heads import Heads
from .lines import Place
from .names import head_key
from .service import SessionService
from .settings import WorkspaceSettings
from .sweeper import Sweeper
from .visit import Visit
from .visits import Visits


class Workspaces:
    """What jobs need of sessions. Made by `open_workspaces`."""

    def __init__(self, visits: Visits, sweeper: Sweeper, sessions: SessionService) -> None:
        self.sessions = sessions
        """What ingresses ask."""
        self.sweeper = sweeper
        self._visits = visits

    def line(self, job: Job) -> AbstractContextManager[Place]:
        """Stand in line for the job's session, in this daemon, while the block lasts; without one, or for a new one, nobody waits."""
        return self._visits.lines.join(head_key(job.tenant, job.session) if job.session else "")

    async def enter(self, job: Job, entry: Entry | None, *, ahead: bool = False) -> Visit:
        """Take the job's session. See `Visits.enter`."""
        return await self._visits.enter(job, entry, ahead=ahead)

    async def catch_up(self, tenant: str, session: str) -> None:
        """Have a session moved to what a job left that ended in it. Raises StoreError."""
        await self._visits.see(Owner(tenant=tenant), session)

    async def settle_owed(self) -> None:
        """Try again what the store did not take. Raises StoreError at the first that it still does not."""
        await self._visits.settle_owed()

    def metrics(self) -> dict[str, float]:
        """Sessions made and in use; what was swept, in how many turns and seconds."""
        sweeper, visits = self.sweeper, self._visits
        counts = {name: float(count) for name, count in sweeper.counts.items()}
        return {**counts, "turns": sweeper.turns, "spent_s": sweeper.spent_s, "made": visits.made, "in_use": len(visits.inside)}

    def health(self) -> dict[str, Any]:
        """What was swept: plain data."""
        return dict(self.sweeper.counts)


@asynccontextmanager
async def open_workspaces(
    records: Records, blobs: Blobs, limits: LimitSettings, settings: WorkspaceSettings
) -> AsyncGenerator[Workspaces, None]:
    """Sessions while the block is open. Leaving it waits for what is still being removed."""
    heads = Heads(records)
    contents = Contents(records, blobs, settings.state)
    async with open_nursery() as tasks:
        visits = Visits(records, heads, contents, settings=settings, limits=limits, tasks=tasks)
        sweeper = Sweeper(visits, records, blobs)
        loops = [tasks.create_task(loop) for loop in sweeper.loops()]
        try:
            yield Workspaces(visits, sweeper, SessionService(visits))
        finally:
            for loop in loops:
                loop.cancel()
