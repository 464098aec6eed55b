"""What one start of a job finds in its session, and where what it leaves goes: the `Workspace` that an executor sees.

What is stored here is seen by nobody yet. See `visit` for how it becomes the session's.
"""

import unicodedata
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NamedTuple

from ..errors import OverLimit, Rejected
from ..job import Limits, Skipped, Stored
from ..spec import Content
from .files import Contents, Meter, one
from .head import Head, State, no_room, state_due
from .heads import STATES, Found, Heads
from .names import check_length, content_type_of
from .settings import WorkspaceSettings


class Input(NamedTuple):
    """A file that the job finds."""

    tenant: str
    file: Stored


class Desk:
    """See `spec.Workspace`."""

    def __init__(
        self,
        found: Found,
        inputs: Mapping[str, Input],
        *,
        heads: Heads,
        contents: Contents,
        settings: WorkspaceSettings,
        limits: Limits,
        filename_bytes: int,
        now: float,
    ) -> None:
        """`inputs`: by the name under which the job finds them. `limits`: the job's, without None."""
        self.files: Sequence[Content] = [self._content(contents, name, it) for name, it in inputs.items()]
        self.state: Content | None = None
        self.state_bytes = 0
        self.state_on_error = settings.state.on_error
        self.state_stays = False
        self.kept: list[Stored] = []
        self.skipped: list[Skipped] = []
        self.snapshot: State | None = None
        self.problem = ""
        """Why there is no snapshot, where one was loaded or asked for."""
        self._found = found
        self._inputs = inputs
        self._heads = heads
        self._contents = contents
        self._settings = settings
        self._limits = limits
        self._filename_bytes = filename_bytes
        self._now = now

    async def open_state(self, snapshot: bytes | None) -> None:
        """Load the session's snapshot, which may have been read already, and take one at the end. Raises StoreError."""
        self.state_bytes = self._settings.state.max_bytes
        tenant, session, state = self._head.owner.tenant, self._found.session, self._head.state
        if state is None:
            return
        self.state_stays = not state.archived  # one that is used again lies where it is read fast
        if state.in_blobs:
            self.state = Content(name="", size=state.size, read=lambda: self._contents.cold(tenant, session, state))
            return
        value = snapshot or await self._contents.hot(tenant, session, state)
        if value is None:
            self.problem = "the variables of earlier jobs are gone from the store"
        else:
            self.state = Content(name="", size=state.size, read=lambda: one(value))

    async def keep(self, name: str, size: int, chunks: AsyncIterator[bytes]) -> Stored | Skipped:
        """See `Workspace.keep`. What is skipped is not read to its end."""
        refusal = self._refusal(name, size)
        if refusal:
            return self._skip(name, refusal)
        name = unicodedata.normalize("NFC", name)
        content_type = content_type_of(name)
        meter = Meter(chunks, size, "it grew while it was stored")
        owner, session = self._head.owner, self._found.session
        try:
            file = await self._contents.put_file(owner.tenant, session, meter, content_type)
        except OverLimit as error:
            return self._skip(name, str(error))
        before = self._inputs.get(name)
        stored = Stored(
            id=file,
            session=session,
            name=name,
            size=meter.size,
            content_type=content_type,
            sha256=meter.digest,
            created=self._now,
            modified_from=before.file.id if before else "",
        )
        self.kept.append(stored)
        return stored

    async def keep_state(self, chunks: AsyncIterator[bytes]) -> tuple[int, str]:
        """See `Workspace.keep_state`. One that is too large is not read to its end, and is of size 0."""
        most = self.state_bytes
        refusal = f"the variables take more than {most} bytes, so the former ones stay: raise the daemon's setting state.max_bytes"
        owner, session = self._head.owner, self._found.session
        if self._head.state is None or self._head.state.archived:
            await self._look()
        try:
            snapshot = await self._contents.put_state(owner.tenant, session, Meter(chunks, most, refusal), self._now)
        except OverLimit as error:
            self.problem = str(error)
            return 0, ""
        self.snapshot = snapshot
        return snapshot.size, snapshot.hash

    async def drop(self) -> None:
        """Remove all that was stored here: nobody will name it."""
        kept, self.kept, snapshot, self.snapshot = self.kept, [], self.snapshot, None
        await self._contents.drop(self._head.owner.tenant, self._found.session, [file.id for file in kept], snapshot)

    @property
    def _head(self) -> Head:
        return self._found.head

    async def _look(self) -> None:
        """Have the sweeper look after the session's first snapshot in its time; later it sees to that itself."""
        first = State(version="", size=0, hash="", created=self._now)
        due = state_due(Head(owner=self._head.owner, created=self._now, used=self._now, state=first), self._settings.state)
        await self._heads.look(STATES, self._found.member, due)

    def _refusal(self, name: str, size: int) -> str:
        limits = self._limits
        assert limits.files is not None
        assert limits.file_bytes is not None
        try:
            check_length(name, "its name", self._filename_bytes)
        except Rejected as error:
            return str(error)
        if len(self.kept) >= limits.files:
            return f"more than {limits.files} files: ask for more, or raise the daemon's setting limits.files"
        if size > limits.file_bytes:
            return f"{size} bytes, at most {limits.file_bytes} allowed: raise the daemon's setting limits.file_bytes"
        names = {file.name for file in self.kept}
        files = [*(file for file in self._head.files if file.name not in names), *self.kept]
        return no_room(files, unicodedata.normalize("NFC", name), size, self._settings.files)

    def _skip(self, name: str, reason: str) -> Skipped:
        skipped = Skipped(name=name, reason=reason)
        self.skipped.append(skipped)
        return skipped

    @staticmethod
    def _content(contents: Contents, name: str, it: Input) -> Content:
        tenant, file = it
        return Content(name=name, size=file.size, version=file.id, read=lambda: contents.file(tenant, file.session, file.id))
