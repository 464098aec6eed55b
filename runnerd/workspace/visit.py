"""One job's time in its session: from taking it, over its starts, to the moment at which what the job left is the session's.

A job with a record: outputs and snapshot are written as versions that nobody knows, then the record is settled with the result
that names them, then the session moves to what the record says, and only then is the result told. Whoever finds the session
in the hand of a job that ended does the last step in its place. A job without a record needs no such second step: its session's
move is what decides.
"""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from ..job import Job, Limits, Result, StateInfo
from ..record import Elsewhere, Entry
from ..spec import Language
from .desk import Desk, Input
from .head import Head, Left, encoded, freed, left_of, mark, moved
from .heads import Found

if TYPE_CHECKING:
    from .visits import Visits

PYTHON = "python"
"""The warm-up whose interpreter can give and take its variables."""


class Visit:
    """A session in the hand of a job. Made by `Visits.enter`."""

    def __init__(
        self,
        visits: "Visits",
        job: Job,
        found: Found,
        entry: Entry | None,
        inputs: Mapping[str, Input],
        warnings: tuple[str, ...],
        snapshot: bytes | None,
    ) -> None:
        """`snapshot`: of the session, where it was read ahead."""
        self.session = found.session
        self._visits = visits
        self._job = job
        self._found = found
        self._fence = found.head.fence
        self._entry = entry
        self._inputs = inputs
        self._warnings = warnings
        self._snapshot = snapshot
        self._desk: Desk | None = None
        self._over = False

    async def start(self, language: Language, limits: Limits) -> Desk:
        """What the job's next start works with; what the start before it left is removed. Raises StoreError."""
        self._drop()
        visits = self._visits
        self._desk = Desk(
            self._found,
            self._inputs,
            heads=visits.heads,
            contents=visits.contents,
            settings=visits.settings,
            limits=limits,
            filename_bytes=visits.limits.filename_bytes,
            now=time.time(),
        )
        if visits.settings.state.enabled and self._job.state and language.warmup == PYTHON:
            snapshot, self._snapshot = self._snapshot, None
            await self._desk.open_state(snapshot)
        return self._desk

    @property
    def mark(self) -> str:
        """How the job found its session: the mark that the last one to work in it had left, where nothing was changed since."""
        return mark(self._found.head, self._fence - 1)

    def mark_after(self, result: Result) -> str:
        """How the job leaves its session, where it ends with this result."""
        after = moved(self._found.head, self._left(result), time.time(), self._visits.settings.files)
        return mark(after, self._fence) if after is not None else ""

    def lose(self) -> None:
        """The start was lost: what it left is removed."""
        self._drop()

    async def finish(self, result: Result, *, force: bool = False) -> Result:
        """Have the job end with this result, and the session with what it left. Returns the result that stands.

        Raises Elsewhere where another daemon took the job or the session meanwhile, StoreError where it can't be recorded: then
        the job has left nothing. `force` as for `Entry.end`.
        """
        left = self._left(result)
        told = self._told(result, left)
        if self._entry is None:
            if not await self._move(left):
                if await self._exists():
                    raise Elsewhere("another daemon took the session over")
                self._drop()
                told = self._told(result, Left(fence=self._fence))
                told = msgspec.structs.replace(told, warnings=(*told.warnings, f"session {self.session} was removed while the job ran"))
            self._over = True
            return told
        standing = await self._entry.end(told, encoded(left), force=force)
        self._over = True
        await self._visits.soon(self.settle, f"moving session {self.session}")
        return standing

    async def settle(self) -> None:
        """Move the session to what its job's record says that the job left. Raises StoreError."""
        assert self._entry is not None
        left = left_of(self._entry.key, self._entry.record.left) or Left(fence=self._fence)
        if not await self._move(left):
            self._drop(left if await self._exists() else None)  # another did it in our place, or removed the session

    async def close(self) -> None:
        """Leave the session, where the job has not ended."""
        if not self._over:
            await self._visits.soon(self.leave, f"giving back session {self.session}")
        self._visits.inside.discard(self._found.key)

    async def leave(self) -> None:
        """Give the session back as it was, and remove one that the job made and nothing is in. Raises StoreError.

        Where the job's record says after all that the job ended, because the answer to that was lost, the session moves instead.
        """
        if self._entry is not None:
            await self._entry.refresh()
            await self._entry.give_back()
            if self._entry.record.result is not None:
                await self.settle()
                return
        self._drop()
        heads = self._visits.heads
        found = await heads.get(self._job.tenant, self.session)
        if found is None or (head := freed(found.head, self._fence)) is None:
            return
        made = self._fence == 1 and self.session != self._job.session
        empty = not (head.files or head.older or head.state)
        if not (made and empty and await heads.remove(found)):
            await heads.change(found, self._freed)

    async def _exists(self) -> bool:
        return await self._visits.heads.get(self._job.tenant, self.session) is not None

    async def _freed(self, head: Head) -> Head | None:
        return freed(head, self._fence)

    async def _move(self, left: Left) -> bool:
        """Move the session; whether it still was this job's to move."""
        settings = self._visits.settings.files

        async def decide(head: Head) -> Head | None:
            return moved(head, left, time.time(), settings)

        change = await self._visits.heads.change(self._found, decide)
        if change is None:
            return False
        before, self._found = change
        self._visits.tidy(before, self._found)
        self._drop(left)
        return True

    def _drop(self, left: Left | None = None) -> None:
        """Have what the last start stored removed, but for what the session has of it now."""
        desk, self._desk = self._desk, None
        if desk is None:
            return
        kept = {file.id for file in left.files} if left else set()
        desk.kept = [file for file in desk.kept if file.id not in kept]
        if left is not None and desk.snapshot == left.state:
            desk.snapshot = None
        if desk.kept or desk.snapshot:
            self._visits.later(desk.drop)

    def _left(self, result: Result) -> Left:
        """What the job leaves, where it ends with this result."""
        desk = self._desk
        if desk is None:
            return Left(fence=self._fence)
        keeps = result.status == "ok" or self._visits.settings.state.on_error
        return Left(fence=self._fence, files=tuple(desk.kept), state=desk.snapshot if keeps else None)

    def _told(self, result: Result, left: Left) -> Result:
        """The executor's result with what only the session knows."""
        desk = self._desk
        mine = tuple(skipped for skipped in (desk.skipped if desk else ()) if skipped not in result.skipped)
        return msgspec.structs.replace(
            result,
            session=self.session,
            stored=left.files,
            skipped=(*result.skipped, *mine),
            state=self._state(result.state, left),
            warnings=(*self._warnings, *result.warnings),
        )

    def _state(self, info: StateInfo | None, left: Left) -> StateInfo | None:
        desk = self._desk
        if desk is None or not desk.state_bytes:
            return None
        state, info = left.state or self._found.head.state, info or StateInfo()
        problem = desk.problem if not info.problem else info.problem
        return msgspec.structs.replace(info, size=state.size if state else 0, hash=state.hash if state else "", problem=problem)
