"""How long a client waits, and what it can be told of a daemon."""

from msgspec import Struct


class Patience(Struct, frozen=True, kw_only=True):
    """How long a client waits, in seconds. None of it limits how long a job may run."""

    connect_s: float = 5.0
    """For the server to answer at first."""
    answer_s: float = 5.0
    """For the answer to a question, and for the bus to say that it keeps a job."""
    sent_s: float | None = None
    """Until the bus has the job, when it is submitted; then Saturated is raised, or IngressError where there is no connection.
    None: `refused_s`."""
    silence_s: float = 10.0
    """Without news of a job, until it is asked for."""
    refused_s: float = 60.0
    """After that, while nobody takes the job, or knows it, or there is no connection; then the same is raised."""
    pause_s: float = 0.1
    """Between two tries, at first; each is twice the one before, or what a daemon says, and none longer than 2 s."""


class LanguageInfo(Struct, frozen=True, kw_only=True):
    """A language that a daemon runs."""

    code: str
    name: str
    aliases: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    """File name endings, with their dot."""
    filename: str = ""
