"""Settings that people have to know more about: of two that bound the same thing the smaller one holds; reuse gives something up."""

from collections.abc import Iterator, Mapping

from ..spec import Language
from .reuse import notes
from .tree import Settings

_LIBRECHAT_LENGTH = 21


def conflicts(settings: Settings, languages: Mapping[str, Language]) -> Iterator[str]:
    """One line for each of them. `languages`: by code, with what the settings change of them."""
    limits, pool = settings.limits, settings.pool
    table = "pods" if settings.executor.kind == "pods" else "local"
    place = settings.pods if table == "pods" else settings.local
    if limits.cpu_cores != place.cpu_cores:
        yield _smaller("limits.cpu_cores", limits.cpu_cores, f"{table}.cpu_cores", place.cpu_cores)
    for name in ("workspace_bytes", "tmp_bytes"):
        if (size := getattr(place, name)) > limits.memory_bytes and (table == "local" or settings.pods.files == "memory"):
            yield _smaller(f"{table}.{name}", size, "limits.memory_bytes, as such files count as memory,", limits.memory_bytes)
    if limits.file_bytes > place.workspace_bytes:
        yield _smaller("limits.file_bytes", limits.file_bytes, f"{table}.workspace_bytes", place.workspace_bytes)
    if table == "pods":
        yield from _of_pods(settings)
    if limits.cpu_s is not None and limits.cpu_s > limits.wall_s * max(1.0, limits.cpu_cores):
        yield _smaller("limits.cpu_s", limits.cpu_s, "limits.wall_s times limits.cpu_cores", limits.wall_s * max(1.0, limits.cpu_cores))
    yield from _of_sessions(settings)
    yield from notes(settings, languages)
    for code, language in languages.items():
        if pool.enabled and pool.alive is not None and language.warm > pool.alive:
            yield _smaller(f"languages.{code}.warm", language.warm, "pool.alive", pool.alive)
    for code, own in settings.languages.items():
        if own.warm and not pool.enabled:
            yield f"languages.{code}.warm = {own.warm} has no effect: pool.enabled is false"


def _of_pods(settings: Settings) -> Iterator[str]:
    limits, pods, pool = settings.limits, settings.pods, settings.pool
    if limits.memory_bytes != pods.memory_bytes:
        yield _smaller("limits.memory_bytes", limits.memory_bytes, "pods.memory_bytes", pods.memory_bytes)
    if pool.max_age_s + limits.wall_s > pods.deadline_s:
        yield _smaller("pool.max_age_s and limits.wall_s together", pool.max_age_s + limits.wall_s, "pods.deadline_s", pods.deadline_s)


def _of_sessions(settings: Settings) -> Iterator[str]:
    limits, sessions, files, state = settings.limits, settings.sessions, settings.files, settings.state
    if sessions.id_length != _LIBRECHAT_LENGTH:
        yield f"sessions.id_length = {sessions.id_length}: LibreChat takes ids of {_LIBRECHAT_LENGTH} characters only, and none of these"
    if limits.file_bytes > files.total_bytes:
        yield _smaller("limits.file_bytes", limits.file_bytes, "files.total_bytes", files.total_bytes)
    if limits.files > files.most:
        yield _smaller("limits.files", limits.files, "files.most", files.most)
    if state.enabled and state.archive and state.archive_after_s > state.ttl_s:
        yield _smaller("state.archive_after_s", state.archive_after_s, "state.ttl_s", state.ttl_s)


def _smaller(one: str, its: float, other: str, others: float) -> str:
    low = one if its < others else other.rstrip(",").partition(",")[0]
    return f"{one} = {its:.12g} and {other} = {others:.12g} bound the same thing: the smaller one, {low}, holds"
