"""What daemons answer on every bus about a job that has no result yet."""

from msgspec import Struct


class State(Struct, frozen=True, kw_only=True):
    """The answer about a job that has no result yet."""

    id: str
    state: str
    """`queued` or `running`; `scheduled` where it is delayed."""


class Taken(Struct, frozen=True, kw_only=True):
    """The answer about a piece that the job's program has been given, or will be when it starts."""

    id: str
    bytes: int
    end: bool


class Answered(Struct, frozen=True, kw_only=True):
    """The answer about an answer to a call: the job's program has it."""

    id: str
    call: str
