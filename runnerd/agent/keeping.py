"""What becomes of a program's variables, seen from the agent: the snapshot that is loaded, and the one that is taken.

The process that says so is the job's own. It is believed of itself only: nothing that it says is longer than it may be,
what it hands over is nobody else's, and of its words only those of WORDS pass, with names of its variables and of classes of exceptions.
"""

from __future__ import annotations

from typing import Protocol

from .frames import CHUNK, Header
from .slate import Slate

WORDS = (
    "format",  # no snapshot, or one of another version
    "python",  # of another Python
    "damaged",  # cut off, or changed
    "missing",  # the sandbox has no cloudpickle, or no lz4 for what was compressed with it
    "size",  # larger than allowed
    "time",  # it took too long
    "died",  # the process ended meanwhile
    "memory",  # it used too much memory
    "broken",  # it gave something else than it had promised
    "failed",  # it could not, for a reason of its own
)
"""Why there is no snapshot, or why nothing was loaded."""
NAMES = 100
NAME = 200
"""Characters of the name of a variable, or of a class."""


class KeepingListener(Protocol):
    """The lease, as the snapshots of its job see it."""

    def emit(self, header: Header, body: bytes = b"") -> None:
        """Send a frame to the executor."""

    @property
    def full(self) -> bool:
        """Whether the executor has more to read than is good."""


class Keeping:
    """The snapshots of one job. It says to the executor what there is to say of them.

    They are handed over in one slate: the executor's, where it has sent one, else our own.
    """

    def __init__(self, wanted: Header, listener: KeepingListener) -> None:
        self.load: bool = wanted["load"]
        """Whether a snapshot is to be loaded; no more once that was given up."""
        self.most: int = wanted["most"]
        """Bytes of the snapshot that is taken at the end, 0 for none."""
        self.loading = False
        """Whether the process loads it now."""
        self._on_error: bool = wanted["on_error"]
        self._stays: bool = wanted.get("stays", False)
        self._listener = listener
        self._emit = listener.emit
        self._why = "died"
        self._shared = "slate" in wanted
        self.slate = Slate(wanted["slate"]) if self._shared else Slate.make(max(self.most, wanted.get("size", 0)))
        self._sent, self._size = 0, 0
        """Bytes of the snapshot that the executor has got, and is to get."""

    def arrive(self, header: Header, body: bytes) -> Header | None:
        """Take a frame of the snapshot that is to be loaded; returns what to tell the process once it is all there."""
        if not self.load:
            return None
        if self._shared:
            return {"type": "state", "size": header["size"]}
        self.slate.append(body)
        return None if header.get("more") else {"type": "state", "size": self.slate.size}

    def wanted(self, code: int) -> bool:
        """Whether a program that ends with this exit code is asked for a snapshot."""
        return self.most > 0 and (code == 0 or self._on_error)

    def begin_loading(self) -> bool:
        """The process says that it loads now; returns whether it was to do so, and has not said it before."""
        begins, self.loading = self.load and not self.loading, self.load
        return begins

    def loaded(self, header: Header) -> None:
        """The process says what it has loaded."""
        self.loading = False
        if self.load:
            word = _word(header.get("problem"))
            self._emit({"type": "loaded", "problem": word, "skipped": _names(header.get("skipped"))})

    def end_loading(self, why: str) -> None:
        """The process that loads will be ended."""
        self._why = why

    def unloadable(self) -> None:
        """That process has ended: another one will do without."""
        self.loading = self.load = False
        self._emit({"type": "loaded", "problem": self._why, "skipped": []})

    def take(self, kind: object, header: Header) -> bool:
        """Take what the process says of its snapshot; returns whether that, and the snapshot, is all with the executor."""
        if self.pouring:
            return False
        if kind != "taken":
            return self.cut("broken")
        size, word, names = header.get("size"), _word(header.get("problem")), _names(header.get("skipped"))
        if word:
            return self.cut(word)
        if header.get("same") is True and self._stays and self.load:
            self._emit({"type": "taken", "size": 0, "problem": "", "same": True, "skipped": names})
            return True
        if not isinstance(size, int) or not 0 < size <= self.most:
            return self.cut("broken")
        self._emit({"type": "taken", "size": size, "problem": "", "skipped": names})
        self._size = 0 if self._shared else size
        return self.pour()

    @property
    def pouring(self) -> bool:
        """Whether the executor is to get more of a snapshot."""
        return self._sent < self._size

    def pour(self) -> bool:
        """Send as much of the snapshot as the executor takes; returns whether that is all."""
        while self._sent < self._size and not self._listener.full:
            piece = self.slate.read(self._sent, min(CHUNK, self._size - self._sent))
            self._sent += len(piece)
            self._emit({"type": "state", "more": True} if self._sent < self._size else {"type": "state"}, piece)
        return self._sent == self._size

    def cut(self, word: str) -> bool:
        """There is no snapshot, or no more of it."""
        self._sent = self._size = 0
        self._emit({"type": "taken", "size": 0, "problem": word, "skipped": []})
        return True


def _word(value: object) -> str:
    """One of WORDS, or nothing where there is no problem."""
    if not value:
        return ""
    return value if isinstance(value, str) and value in WORDS else "failed"


def _names(value: object) -> list[tuple[str, str]]:
    """Names of variables and classes, where that is what it is."""
    if not isinstance(value, list):
        return []
    pairs = [pair for pair in value[:NAMES] if isinstance(pair, list) and len(pair) == 2]
    return [(name[:NAME], kind[:NAME]) for name, kind in pairs if isinstance(name, str) and isinstance(kind, str)]
