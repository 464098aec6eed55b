"""Every hook that a plugin may implement. Hooks are plain functions, called once at start, and do no I/O.

What a plugin returns describes; whatever has a lifetime is opened later with `async with`.
"""

from collections.abc import Iterable

import pluggy

from .spec import Ingress, Language
from .store import Store

hookspec = pluggy.HookspecMarker("runnerd")
hookimpl = pluggy.HookimplMarker("runnerd")


@hookspec
def register_languages() -> Iterable[Language]:
    """Languages that a job may name."""
    return ()


@hookspec
def register_stores() -> Iterable[type[Store]]:
    """Store types that `[store.kv]` and `[store.blob]` may name by their `kind`."""
    return ()


@hookspec
def register_ingress() -> Iterable[type[Ingress]]:
    """Ingress types that `[ingress.<kind>]` may configure."""
    return ()
