"""What a job leaves in its workspace, on its way out of the sandbox: streamed from the wire to wherever it is kept."""

from collections.abc import AsyncIterator

import msgspec

from ..agent.frames import Header
from ..agent.slate import Slate
from ..errors import SandboxLost
from ..job import Result, Skipped, StateInfo, Stored
from ..spec import Workspace
from .present import OWN, Present
from .variables import not_loaded, not_taken, skipped
from .wire import Wire

KINDS = ("file", "loaded", "taken", "state")
"""Frames that are for here."""

PIECE = 1 << 20
"""Bytes of a snapshot that are read at once."""


class Cut(Exception):
    """Breaks off a stream whose end will not come: what was read of it must not be kept."""


class Outputs:
    """Hands over files and the snapshot of one job, one after the other, and remembers what became of them."""

    def __init__(
        self, wire: Wire, workspace: Workspace, stateful: bool, present: Present | None = None, slate: Slate | None = None
    ) -> None:
        """`slate`: where the snapshot is, where it does not come by the wire."""
        self._stored: list[Stored] = []
        self._skipped: list[Skipped] = []
        self._wire = wire
        self._slate = slate
        self._workspace = workspace
        self._stateful = stateful
        self._present = present or Present()
        self._restored = False
        self._kept = (0, "")
        self._lost: list[Skipped] = []
        self._problems: list[str] = []
        self._said = False
        """Whether the agent said what became of the variables at the end."""

    async def take(self, header: Header, body: bytes) -> None:
        """Take a frame, and all that belong to it. Raises StoreError and SandboxLost."""
        kind = header["type"]
        if kind == "file":
            await self._take_file(header, body)
        elif kind == "loaded":
            self._restored = not header["problem"]
            self._lost += skipped(header["skipped"], "could not be loaded")
            self._problems += not_loaded(header["problem"])
        elif kind == "taken":
            await self._take_state(header)

    def added(self, result: Result) -> Result:
        """The result of the job, with what it left."""
        return msgspec.structs.replace(
            result, stored=tuple(self._stored), skipped=(*result.skipped, *self._skipped), state=self._state(result.status == "failed")
        )

    def _state(self, failed: bool) -> StateInfo | None:
        if not self._stateful:
            return None
        problems = list(self._problems)
        if self._workspace.state_bytes and not self._said:
            left_out = failed and not self._workspace.state_on_error
            problems.append("variables were not kept: the program " + ("failed" if left_out else "was ended, or ended itself at once"))
        size, hash_ = self._kept
        return StateInfo(restored=self._restored, size=size, hash=hash_, skipped=tuple(self._lost), problem="; ".join(problems))

    async def _take_file(self, header: Header, body: bytes) -> None:
        if header.get("cut"):
            return
        name, size = header["name"], header["size"]
        stream = _Stream(self._wire, "file", header, body, size)
        try:
            kept = await self._workspace.keep(name, size, stream.chunks())
        except Cut:
            self._skipped.append(Skipped(name=name, reason="could not be read to its end"))
            self._present.left(name)
            return
        await stream.drain()
        if isinstance(kept, Stored):
            self._stored.append(kept)
            self._present.left(name, kept.id if kept.name == name else OWN)
        else:
            self._skipped.append(kept)
            self._present.left(name)

    async def _take_state(self, header: Header) -> None:
        self._said = True
        if header["problem"]:
            self._problems += not_taken(header["problem"], self._workspace.state_bytes)
            return
        if header.get("same"):
            self._lost += skipped(header["skipped"], "can't be pickled")
            return
        if self._slate is not None:
            self._kept = await self._workspace.keep_state(_written(self._slate, header["size"]))
            self._lost += skipped(header["skipped"], "can't be pickled")
            return
        stream = _Stream(self._wire, "state", *await self._wire.receive(), header["size"])
        try:
            self._kept = await self._workspace.keep_state(stream.chunks())
            await stream.drain()
        except Cut:
            self._problems += not_taken(stream.problem, self._workspace.state_bytes)
        else:
            self._lost += skipped(header["skipped"], "can't be pickled")


async def _written(slate: Slate, size: int) -> AsyncIterator[bytes]:
    """The bytes that the sandbox has handed over."""
    for start in range(0, size, PIECE):
        yield slate.read(start, min(PIECE, size - start))


class _Stream:
    """One file or snapshot on the wire, of which the first frame is there."""

    def __init__(self, wire: Wire, kind: str, header: Header, body: bytes, size: int) -> None:
        self.problem = ""
        """Why it was cut, where the agent said so."""
        self._wire = wire
        self._kind = kind
        self._frame: tuple[Header, bytes] | None = (header, body)
        self._left = size
        self._more = True

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes that are still to come, as they come. Raises Cut where they do not all come, and SandboxLost."""
        while self._more:
            header, body = self._frame or await self._wire.receive()
            self._frame = None
            self._check(header)
            self._left -= len(body)
            self._more = bool(header.get("more"))
            if body:
                yield body
        if self._left:
            raise Cut

    def _check(self, header: Header) -> None:
        kind, cut = header["type"], header.get("cut", False)
        if kind == self._kind and not cut:
            return
        self._more = False
        if not cut and kind != "taken":
            raise SandboxLost(f"the agent sent {kind!r} amid a {self._kind}")
        self.problem = header.get("problem", "")
        raise Cut

    async def drain(self) -> None:
        """Read what nobody wanted."""
        async for _ in self.chunks():
            pass
