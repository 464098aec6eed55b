"""Forks of our own, without what libraries do at every fork.

Their hooks repair locks that other threads may have held. Our processes have one thread, so there is nothing to repair; and
each page that a hook writes to has to be copied. In a job's own forks the hooks run as they always do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Hook = Callable[[], Any]

_OF_LOCKS = ("threading", "logging", "concurrent.futures.thread")
"""Modules whose hooks do nothing but that. Others renew what must differ between processes: random numbers."""
_ours = False


@contextmanager
def skipping_hooks() -> Iterator[None]:
    """Hooks on locks that are registered while the block is open will not run in our forks."""
    register = os.register_at_fork

    def wrapped(**hooks: Hook) -> None:
        register(**{when: _skippable(hook) for when, hook in hooks.items()})

    os.register_at_fork = wrapped  # type: ignore[assignment]
    try:
        yield
    finally:
        os.register_at_fork = register


def _skippable(hook: Hook) -> Hook:
    owner = getattr(hook, "__module__", None) or type(getattr(hook, "__self__", None)).__module__
    if owner not in _OF_LOCKS:
        return hook

    def unless_ours() -> None:
        if not _ours:
            hook()

    return unless_ours


def fork() -> int:
    """Fork; as os.fork() otherwise."""
    global _ours  # noqa: PLW0603 - read by hooks, which have no argument
    _ours = True
    try:
        return os.fork()
    finally:
        _ours = False
