"""Words for what became of a program's variables. What the sandbox says of them are words of a closed list, and names."""

import builtins
from collections.abc import Iterable

from ..job import Skipped

NOT_LOADED = {
    "format": "it is no snapshot that this version of runnerd can read",
    "python": "it was made by another version of Python",
    "damaged": "it is damaged, or not complete",
    "missing": "the sandbox lacks cloudpickle, or lz4 with which it is compressed",
    "time": "loading it took too long",
    "memory": "loading it took too much memory",
    "died": "the process that loaded it ended",
}
NOT_TAKEN = {
    "missing": "the sandbox lacks cloudpickle",
    "size": "they take more than {most} bytes",
    "time": "pickling them took too long",
    "memory": "pickling them took too much memory",
    "died": "the process ended while it pickled them",
    "broken": "the process gave something else than a snapshot",
    "failed": "the process could not pickle them",
}
PICKLING_ERRORS = ("PicklingError", "UnpicklingError")


def not_loaded(word: str) -> list[str]:
    """Why a program runs without earlier variables; nothing where it has them."""
    return [f"earlier variables were not loaded: {NOT_LOADED.get(word, 'it could not be read')}"] if word else []


def not_taken(word: str, most: int) -> list[str]:
    """Why a program's variables were not kept."""
    return [f"variables were not kept: {NOT_TAKEN.get(word, NOT_TAKEN['failed']).format(most=most)}"]


def skipped(pairs: Iterable[tuple[str, str]], what: str) -> list[Skipped]:
    """Variables that are not there, each with the class of its exception where that is one of Python's own."""
    return [Skipped(name=name, reason=f"{what} ({kind})" if _is_known(kind) else what) for name, kind in pairs]


def _is_known(kind: str) -> bool:
    found = getattr(builtins, kind, None)
    return kind in PICKLING_ERRORS or (isinstance(found, type) and issubclass(found, BaseException))
