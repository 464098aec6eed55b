"""Every error that runnerd raises. What a user's program does wrong is a Result, never an exception.

RunnerdError
├── ConfigError        a setting is wrong: names where it stands and what would be right
├── PluginError        a plugin could not be loaded
├── Rejected           this job can never run as it is: the caller has to change it
├── Saturated          no room for this job now: the caller may try again later
├── Interrupted        this job was given back without a result: it may be submitted again
├── SandboxError       no sandbox could be started
│   └── SandboxLost    a sandbox went away while it had a job
│       └── NotBegun   … before the job's program began
├── NotFound           there is no such session, file or snapshot for the one who asks
├── Conflict           something else stands there than the caller expected, or a job works on it
├── OverLimit          a limit of the daemon would be exceeded; names it and its setting
├── StoreError         a store did not answer, or answered nonsense
└── IngressError       a bus or a listener could not be opened
"""


class RunnerdError(Exception):
    """Base of all errors of runnerd."""


class ConfigError(RunnerdError):
    """Settings are wrong. `problems` has one line per problem, each naming its place and the fix."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class PluginError(RunnerdError):
    """A plugin could not be loaded."""


class Rejected(RunnerdError):
    """A job that can never run as it is; the text names the field and the fix."""


class Saturated(RunnerdError):
    """No room for a job now. `retry_after_s` is a guess at when to try again, in seconds."""

    def __init__(self, reason: str, retry_after_s: float = 1.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class Interrupted(RunnerdError):
    """A job was given back: it has no result and leaves no trace, so another daemon, or this one later, may take it.

    Raised where the daemon stops before the job could end, or where the store can't record that the job begins.
    """


class SandboxError(RunnerdError):
    """No sandbox could be started."""


class SandboxLost(SandboxError):
    """A sandbox went away while it had a job."""


class NotBegun(SandboxLost):
    """A sandbox went away before the program of its job began."""


class NotFound(RunnerdError):
    """There is no such session, file or snapshot for the one who asks: whether another has it is not told."""


class Conflict(RunnerdError):
    """Something else stands there than the caller expected, or a job works on it."""


class OverLimit(RunnerdError):
    """A limit of the daemon would be exceeded; the text names it and the setting to raise."""


class StoreError(RunnerdError):
    """A store did not answer, or answered nonsense."""


class IngressError(RunnerdError):
    """A bus or a listener could not be opened."""
