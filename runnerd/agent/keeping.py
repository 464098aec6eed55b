"""What becomes of a program's variables, seen from the agent: the snapshot that is loaded, and the one that is taken.

The process that says so is the job's own. It is believed of itself only: nothing that it says is longer than it may be,
and of its words only those of WORDS pass, with names of its variables and of classes of exceptions.
"""

from __future__ import annotations

from collections.abc import Callable

from .frames import CHUNK, Header

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

Emit = Callable[..., None]


class Keeping:
    """The snapshots of one job. It says to the executor what there is to say of them."""

    def __init__(self, wanted: Header, emit: Emit) -> None:
        self.load: bool = wanted["load"]
        """Whether a snapshot is to be loaded; no more once that was given up."""
        self.most: int = wanted["most"]
        """Bytes of the snapshot that is taken at the end, 0 for none."""
        self.loading = False
        """Whether the process loads it now."""
        self._on_error: bool = wanted["on_error"]
        self._stays: bool = wanted.get("stays", False)
        self._emit = emit
        self._why = "died"
        self._left = 0

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

    def take(self, kind: object, header: Header, body: bytes) -> bool:
        """Take what the process says of its snapshot, and the snapshot; returns whether that is all."""
        if kind == "taken":
            return self._announced(header)
        return kind == "state" and self._piece(body)

    def _announced(self, header: Header) -> bool:
        size, word = header.get("size"), _word(header.get("problem"))
        if word:
            return self.cut(word)
        if header.get("same") is True and self._stays and self.load:
            self._emit({"type": "taken", "size": 0, "problem": "", "same": True, "skipped": _names(header.get("skipped"))})
            return True
        if self._left or not isinstance(size, int) or not 0 < size <= self.most:
            return self.cut("broken")
        self._left = size
        self._emit({"type": "taken", "size": size, "problem": "", "skipped": _names(header.get("skipped"))})
        return False

    def _piece(self, body: bytes) -> bool:
        if not 0 < len(body) <= min(self._left, CHUNK):
            return self.cut("broken")
        self._left -= len(body)
        self._emit({"type": "state", "more": True} if self._left else {"type": "state"}, body)
        return self._left == 0

    def cut(self, word: str) -> bool:
        """There is no snapshot, or no more of it."""
        self._left = 0
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
