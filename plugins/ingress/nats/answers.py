"""What answers to questions about this daemon are made of."""

from msgspec import Struct


class LanguageInfo(Struct, frozen=True, kw_only=True):
    """A language that this daemon runs."""

    code: str
    """Its name in subjects."""
    name: str
    aliases: tuple[str, ...]
    """Further names that a job's body may use."""
    suffixes: tuple[str, ...]
    filename: str


class LimitsInfo(Struct, frozen=True, kw_only=True):
    """What this bus and this ingress take."""

    max_payload: int
    """Bytes of a message, headers and body."""
    body_bytes: int
    """Bytes of a job's body."""
    reply_prefixes: tuple[str, ...]
    """First letters of subjects that answers may go to."""
