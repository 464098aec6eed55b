"""How long sessions, their files and their interpreters' variables are kept, and how much of them."""

from typing import Annotated

from msgspec import Meta, Struct

_YEAR_S = 31_536_000


class SessionSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sessions: what jobs leave to the next ones."""

    ttl_s: Annotated[float, Meta(gt=0, le=10 * _YEAR_S, extra={"env": "SESSION_TTL_HOURS"})] = 86_400.0
    """How long a session is kept after its last use, in seconds."""
    id_length: Annotated[int, Meta(ge=16, le=64, extra={"env": "SESSION_ID_LENGTH"})] = 21
    """Characters of a new session's id. LibreChat takes 21 only."""
    most_per_entity: Annotated[int, Meta(ge=1, le=1_000_000, extra={"env": "MAX_SESSIONS_PER_ENTITY"})] = 100
    """Sessions of one entity of a tenant; one more is refused until one is removed or expires."""
    cleanup_s: Annotated[float, Meta(gt=0, le=86_400, extra={"env": "SESSION_CLEANUP_INTERVAL_MINUTES"})] = 600.0
    """Seconds between two removals of sessions that have expired, and of what belongs to none."""
    cleanup_most: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000
    """Sessions, snapshots or blobs that are looked at in one such turn."""
    orphan_s: Annotated[float, Meta(gt=0, le=_YEAR_S)] = 86_400.0
    """How old a blob has to be, in seconds, to be removed because no session names it. Longer than any job and upload takes."""


class FileSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Files in sessions. The largest file is `limits.file_bytes`, how many one job may leave `limits.files`."""

    most: Annotated[int, Meta(ge=1, le=1000, extra={"env": "MAX_FILES_PER_SESSION"})] = 50
    """Files in a session, and as many former versions of them."""
    total_bytes: Annotated[int, Meta(ge=1, le=1 << 50, extra={"env": "MAX_TOTAL_FILE_SIZE_MB"})] = 50 << 20
    """Bytes of a session's files together. Former versions stay while there is room, the oldest go first."""


class StateSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """State: the variables of a session's interpreter."""

    enabled: Annotated[bool, Meta(extra={"env": "STATE_PERSISTENCE_ENABLED"})] = True
    """Keep variables from job to job."""
    ttl_s: Annotated[float, Meta(gt=0, le=_YEAR_S, extra={"env": "STATE_TTL_SECONDS"})] = 7200.0
    """How long a snapshot is kept after its last use, in seconds; then it is archived, or removed where archiving is off."""
    max_bytes: Annotated[int, Meta(ge=1, le=1 << 40, extra={"env": "STATE_MAX_SIZE_MB"})] = 50 << 20
    """Size of a snapshot. One that would be larger is not taken, the result says so, and the former one stays."""
    hot_bytes: Annotated[int, Meta(ge=0, le=1 << 30)] = 4 << 20
    """Size up to which a snapshot lies in the key-value store until it is archived, if that takes it; a larger one is a blob at once."""
    inline_bytes: Annotated[int, Meta(ge=0, le=1 << 18)] = 4 << 10
    """Size up to which a snapshot is a part of its session's own entry, which saves two round trips to the store."""
    on_error: Annotated[bool, Meta(extra={"env": "STATE_CAPTURE_ON_ERROR"})] = False
    """Keep the variables of jobs that failed too."""
    archive: Annotated[bool, Meta(extra={"env": "STATE_ARCHIVE_ENABLED"})] = True
    """Move snapshots that nobody uses to the blob store."""
    archive_after_s: Annotated[float, Meta(gt=0, le=_YEAR_S, extra={"env": "STATE_ARCHIVE_AFTER_SECONDS"})] = 3600.0
    """How long after its last use that happens, in seconds; `ttl_s` where that is shorter."""
    archive_ttl_s: Annotated[float, Meta(gt=0, le=10 * _YEAR_S, extra={"env": "STATE_ARCHIVE_TTL_DAYS"})] = 604_800.0
    """How long an archived snapshot is kept after that, or after its last use since, in seconds. The session lives as long."""
    archive_check_s: Annotated[float, Meta(gt=0, le=86_400, extra={"env": "STATE_ARCHIVE_CHECK_INTERVAL_SECONDS"})] = 300.0
    """Seconds between two looks for snapshots to archive or to remove."""


class WorkspaceSettings(Struct, frozen=True, kw_only=True):
    """All three."""

    sessions: SessionSettings = SessionSettings()
    files: FileSettings = FileSettings()
    state: StateSettings = StateSettings()
