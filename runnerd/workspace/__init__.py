"""The workspace around a job: the session whose files and state it finds, and in which it leaves its own.

`visits` takes sessions for jobs, a `visit` is one job's time in one, its `desk` is what an executor sees of it. `head` is what the
store knows of a session and how it changes, `heads` reads and writes that, `files` has the bytes. `service` is what ingresses ask,
`sweeper` removes what has expired.
"""

from .lines import Place
from .opening import Workspaces, open_workspaces
from .settings import FileSettings, SessionSettings, StateSettings, WorkspaceSettings
from .visit import PYTHON, Visit

__all__ = [
    "PYTHON",
    "FileSettings",
    "Place",
    "SessionSettings",
    "StateSettings",
    "Visit",
    "WorkspaceSettings",
    "Workspaces",
    "open_workspaces",
]
