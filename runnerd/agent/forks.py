"""Forks of our own, without what libraries do at every fork.

Their hooks repair locks that other threads may have held. Our processes have one thread, so there is nothing to repair; and
each page that a hook writes to has to be copied. In a job's own forks the hooks run as they always do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

Hook = Callable[[], Any]

_OF_LOCKS = ("threading", "logging", "concurrent.futures.thread")
"""Modules whose hooks do nothing but that. Others renew what must differ between processes: random numbers."""
_skipped: list[dict[str, Hook]] = []
"""By when they are to run, as os.register_at_fork names it."""
_ours = False
_first: Hook | None = None
"""What a child of our next fork does before all hooks."""


@contextmanager
def skipping_hooks() -> Iterator[None]:
    """Hooks on locks that are registered while the block is open will not run in our forks."""
    register = os.register_at_fork

    def registered(**hooks: Hook) -> None:
        if all(_is_of_locks(hook) for hook in hooks.values()):
            _skipped.append(hooks)
        else:
            register(**hooks)

    os.register_at_fork = registered  # type: ignore[assignment]
    try:
        yield
    finally:
        os.register_at_fork = register


def _is_of_locks(hook: Hook) -> bool:
    owner = getattr(hook, "__module__", None) or type(getattr(hook, "__self__", None)).__module__
    return owner in _OF_LOCKS


def _before() -> None:
    if not _ours:
        _run(reversed(_skipped), "before")


def _in_parent() -> None:
    if not _ours:
        _run(_skipped, "after_in_parent")


def _in_child() -> None:
    if _first is not None:
        _first()
    if not _ours:
        _run(_skipped, "after_in_child")


def _run(registered: Iterable[dict[str, Hook]], when: str) -> None:
    for hooks in registered:
        if when in hooks:
            hooks[when]()


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)


def fork(first: Hook | None = None) -> int:
    """Fork; as os.fork() otherwise. The child calls `first` as early as can be."""
    global _ours, _first
    _ours, _first = True, first
    try:
        return os.fork()
    finally:
        _ours, _first = False, None
