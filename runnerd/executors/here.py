"""Sandboxes on this machine: cells of one agent, or containers of runsc."""

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager

from ..spec import Language
from .gvisor import GvisorExecutor, open_gvisor
from .local import GVISOR, LocalExecutor, LocalSettings, open_local


def open_here(
    settings: LocalSettings, slots: int, languages: Iterable[Language]
) -> AbstractAsyncContextManager[LocalExecutor | GvisorExecutor]:
    """The executor that `local.level` names. Raises SandboxError when it is entered.

    `slots` is how many sandboxes there may be at once, warm ones included.
    """
    return open_gvisor(settings, slots, languages) if settings.level == GVISOR else open_local(settings, slots, languages)
