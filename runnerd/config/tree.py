"""The tree of all settings. Each table is a Struct of the module that uses it; here they are put together."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from ..executors.local import LocalSettings
from ..executors.pods.settings import PodSettings
from ..executors.settings import ExecutorSettings
from ..isolation import IsolationSettings
from ..job import Reuse
from ..limits import LimitSettings
from ..log import LogSettings
from ..pool import PoolSettings
from ..scheduler import SchedulerSettings
from ..spec import Ingress
from ..store import Store
from ..tools import ToolSettings
from ..workspace import FileSettings, SessionSettings, StateSettings

EMBEDDED_STORE = "disk"
"""Kind of a store that no setting names."""
EMBEDDED_INGRESS = ("nats", "http")
"""Kinds of ingress that are opened unless their table says `enabled = false`."""


class LanguageSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What this daemon does otherwise than the language's own description says."""

    warm: Annotated[int, Meta(ge=0, le=1000)] | None = None
    """Sandboxes kept warm. None: as many as the language says. 0: started on demand."""
    image: str | None = None
    """Image of its pods. None: the language's own."""
    reuse: Reuse | None = None
    """What one of its sandboxes serves: `job`, `session` or `tenant`. None: as `pool.reuse`. The last two need `isolation.reuse`."""


class StoreSettings(Struct, frozen=True, kw_only=True):
    """Where bytes outlive a job."""

    kv: Store
    """Keys and values: the record of each job, sessions and their hot state."""
    blob: Store
    """Blobs: files in sessions, archived and large state."""


class Settings(Struct, frozen=True, kw_only=True):
    """All settings of one daemon, checked."""

    state_dir: str
    """Directory for all that outlives the daemon. Default: /var/lib/runnerd for root, else ~/.local/state/runnerd."""
    limits: LimitSettings = LimitSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    pool: PoolSettings = PoolSettings()
    executor: ExecutorSettings = ExecutorSettings()
    local: LocalSettings = LocalSettings()
    pods: PodSettings = PodSettings()
    isolation: IsolationSettings = IsolationSettings()
    log: LogSettings = LogSettings()
    sessions: SessionSettings = SessionSettings()
    files: FileSettings = FileSettings()
    state: StateSettings = StateSettings()
    tools: ToolSettings = ToolSettings()
    languages: Mapping[str, LanguageSettings] = {}
    """By code."""
    store: StoreSettings
    ingress: Mapping[str, Ingress] = {}
    """By kind, those that are to be opened."""


def default_state_dir(environ: Mapping[str, str]) -> str:
    """Where state lives unless a setting says otherwise, after the XDG base directory specification."""
    if os.geteuid() == 0:
        return "/var/lib/runnerd"
    base = environ.get("XDG_STATE_HOME") or str(Path.home() / ".local/state")
    return str(Path(base) / "runnerd")
