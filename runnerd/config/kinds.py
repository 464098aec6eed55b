"""Which kind of store each part is: what `kind` says, wherever it is written, else what a variable such as REDIS_URL chooses.

The source system's names for a store's settings belong to one kind. Where a part is of another kind they have no effect there.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import msgspec

from .schema import PARTS, Setting
from .sources import Assigned, Given, Path_, Table
from .tables import Findings
from .tree import EMBEDDED_STORE


def choose_kinds(
    root: Table, assigned: Sequence[Assigned], flagged: Collection[Path_], settings: Sequence[Setting], findings: Findings
) -> dict[str, str]:
    """Each part's kind. Where a variable chooses it, it is written into `root`, with that variable's place."""
    kinds = {}
    for part in PARTS:
        path = ("store", part, "kind")
        kinds[part] = _said(root, path, assigned, settings)
        if not kinds[part] and path not in flagged and (chosen := _chosen(part, assigned, settings, findings)) is not None:
            root.put(path, chosen)
            kinds[part] = str(chosen.value)
        kinds[part] = kinds[part] or EMBEDDED_STORE
    return kinds


def settings_by_kind(settings: Iterable[Setting], kinds: Mapping[str, str]) -> Iterator[Setting]:
    """The settings, those of stores that are not used without the source system's names."""
    for setting in settings:
        unused = setting.path[0] == "store" and setting.kind not in ("", kinds[setting.path[1]])
        yield msgspec.structs.replace(setting, names=setting.names[:1]) if unused else setting


def unused_names(settings: Iterable[Setting], kinds: Mapping[str, str]) -> dict[str, str]:
    """Why the source system's names of stores that are not used have no effect, by name."""
    return {
        name: f"store.{setting.path[1]} is of kind {kinds[setting.path[1]]}"
        for setting in settings
        if setting.path[0] == "store" and setting.kind not in ("", kinds[setting.path[1]])
        for name in setting.names[1:]
    }


def _said(root: Table, path: Path_, assigned: Iterable[Assigned], settings: Iterable[Setting]) -> str:
    """What `kind` says, empty where it is not written."""
    names = {name for setting in settings if setting.path == path for name in setting.names}
    said = [one.text.strip() for one in sorted(assigned, key=lambda one: one.rank) if one.name in names and one.text.strip()]
    below: Table | Given | None = root
    for key in path:
        below = below.entries.get(key) if isinstance(below, Table) else None
    return said[-1] if said else str(below.value) if isinstance(below, Given) else ""


def _chosen(part: str, assigned: Iterable[Assigned], settings: Iterable[Setting], findings: Findings) -> Given | None:
    """The kind that variables choose, of the source that counts most."""
    kinds = {
        name: setting.kind for setting in settings if setting.path[:2] == ("store", part) and setting.selects for name in setting.names[1:]
    }
    found = [one for one in assigned if one.name in kinds and one.text.strip()]
    found = [one for one in found if one.rank == max(other.rank for other in found)]
    if len({kinds[one.name] for one in found}) > 1:
        both = " and ".join(sorted(one.name for one in found))
        findings.problems.append(f"{found[0].place}: {both} choose different kinds of store.{part}: set store.{part}.kind as well")
    if not found:
        return None
    return Given(value=kinds[found[0].name], place=found[0].place, rank=found[0].rank, variable=found[0].name)
