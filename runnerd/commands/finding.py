"""What `runnerd check` finds."""

from typing import Literal

from msgspec import Struct


class Finding(Struct, frozen=True, kw_only=True):
    """One thing that was looked at."""

    about: str
    state: Literal["ok", "note", "problem"]
    text: str
