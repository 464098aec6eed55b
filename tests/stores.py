"""The bundled stores as the daemon finds them: through their entry points, with the settings of their tables."""

from importlib.metadata import entry_points
from typing import Any

import msgspec

from runnerd import Store


def store(kind: str, **settings: Any) -> Store:
    """The store that `[store.kv] kind = …` gives."""
    (point,) = [point for point in entry_points(group="runnerd") if point.name == kind]
    (type_,) = point.load().register_stores()
    made: Store = msgspec.convert({"kind": kind} | settings, type_)
    return made
