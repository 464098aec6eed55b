"""Where sandboxes are: on this machine, or in a cluster. What that decides about languages and limits."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager

import msgspec

from .config import Settings
from .errors import ConfigError
from .executors.here import open_here
from .executors.local import LocalSettings
from .executors.pods.settings import bounded
from .limits import LimitSettings
from .spec import Executor, Language
from .toolchains import InImages, Toolchains

OpenLocal = Callable[[LocalSettings, int, Iterable[Language]], AbstractAsyncContextManager[Executor]]


def open_executor(
    settings: Settings, languages: Mapping[str, Language], open_local: OpenLocal = open_here
) -> AbstractAsyncContextManager[Executor]:
    """The executor that the settings name. Raises ConfigError, and SandboxError when it is entered."""
    if in_pods(settings):
        try:
            from .executors.pods.executor import open_pods  # noqa: PLC0415 - its client library is an extra, and slow to import
        except ImportError as error:
            raise ConfigError(f"executor.kind = pods: install runnerd[kubernetes]: {error}") from error
        return open_pods(settings.pods, limits(settings), START_SHARE * settings.pool.start_timeout_s, closed=settings.isolation.pods)
    local = msgspec.structs.replace(settings.local, cpu_cores=min(settings.local.cpu_cores, settings.limits.cpu_cores))
    return open_local(local, sandboxes(settings, languages.values()), languages.values())


START_SHARE = 0.9
"""How much of `pool.start_timeout_s` a pod has, so that there is time left to find out why it did not start."""


def in_pods(settings: Settings) -> bool:
    """Whether sandboxes are pods."""
    return settings.executor.kind == "pods"


def limits(settings: Settings) -> LimitSettings:
    """What jobs may use: of two settings that bound the same thing, the smaller one."""
    return bounded(settings.limits, settings.pods) if in_pods(settings) else settings.limits


def tool_chains(settings: Settings) -> Toolchains:
    """Where tool chains are looked for."""
    return InImages() if in_pods(settings) else Toolchains()


def cold_where_disabled(settings: Settings, languages: Mapping[str, Language]) -> dict[str, Language]:
    """The languages with nothing warm where the pool is switched off."""
    if settings.pool.enabled:
        return dict(languages)
    return {code: msgspec.structs.replace(language, warm=0) for code, language in languages.items()}


def sandboxes(settings: Settings, languages: Iterable[Language]) -> int:
    """How many sandboxes there are at most: one per slot, the warm and the kept ones, and those that end while the next job has begun."""
    slots, pool = settings.scheduler.slots, settings.pool
    return 2 * slots + sum(pool.target(language) + (pool.kept if language.reuse != "job" else 0) for language in languages)
