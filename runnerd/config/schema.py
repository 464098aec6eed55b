"""Every setting there is: the fields of the tree's tables, and of the tables that plugins add."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import FieldInfo

from ..plugins import Plugins
from ..store import Store
from .sources import Path_
from .tree import EMBEDDED_STORE, LanguageSettings, Settings, StoreSettings
from .units import unit_of

PARTS = {"kv": "open_kv", "blob": "open_blobs"}
"""The stores that there are, and what a kind of store has to implement for each."""
_SECRET = re.compile(r"(^|_)(key|keys|password|secret|token|credentials)$")


class Setting(Struct, frozen=True, kw_only=True):
    """One setting: its place in the tree, and how it is written."""

    path: Path_
    owner: type[Struct]
    field: FieldInfo
    names: tuple[str, ...]
    """Environment names: `RUNNERD_<TABLE>_<FIELD>`, then those of the source system."""
    kind: str = ""
    """Of which kind of store or ingress."""

    @property
    def dotted(self) -> str:
        """Its name in runnerd.toml and in error reports."""
        return ".".join(self.path)

    @property
    def unit(self) -> str:
        """What a number counts: `bytes`, `s`, `ms` or nothing."""
        return unit_of(self.path[-1])

    @property
    def selects(self) -> bool:
        """Whether a variable of the source system that sets it chooses its kind of store as well."""
        return bool(_extra(self.field).get("selects"))


def settings_of(plugins: Plugins) -> list[Setting]:
    """All settings, in the order of the tree."""
    settings = [Setting(path=("state_dir",), owner=Settings, field=_field(Settings, "state_dir"), names=("RUNNERD_STATE_DIR",))]
    for field in msgspec.structs.fields(Settings):
        if struct_of(field.type) is not None and field.name != "store":
            settings += _table(struct_of(field.type), (field.name,))
    for code in plugins.languages:
        settings += _language(code)
    for part in PARTS:
        settings.append(_kind(part))
        for kind, store in plugins.stores.items():
            settings += _table(store, ("store", part), kind=kind) if able(store, part) else ()
    for kind, ingress in plugins.ingress.items():
        settings += _table(ingress, ("ingress", kind), kind=kind)
    return settings


def struct_of(annotation: Any) -> type[Struct] | None:
    """The Struct that an annotation names, None where it names something else."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation if isinstance(annotation, type) and issubclass(annotation, Struct) else None


def able(type_: type[Store], part: str) -> bool:
    """Whether a kind of store implements a part."""
    return getattr(type_, PARTS[part]) is not getattr(Store, PARTS[part])


def is_secret(field: FieldInfo) -> bool:
    """Whether the field's value is not to be shown."""
    return bool(_extra(field).get("secret")) or _SECRET.search(field.name) is not None


def variable_of(path: Path_) -> str:
    """The environment name that every setting has."""
    return re.sub(r"[^A-Z0-9]", "_", "_".join(("runnerd", *path)).upper())


def _table(type_: type[Struct] | None, path: Path_, kind: str = "") -> Iterator[Setting]:
    if type_ is None:
        return
    for field in msgspec.structs.fields(type_):
        below = (*path, field.encode_name)
        if (struct := struct_of(field.type)) is not None:
            yield from _table(struct, below, kind)
        else:
            names = (variable_of(below), *_seed_names(field))
            yield Setting(path=below, owner=type_, field=field, names=names, kind=kind)


def _kind(part: str) -> Setting:
    path = ("store", part, "kind")
    field = FieldInfo(name="kind", encode_name="kind", type=str, default=EMBEDDED_STORE)
    return Setting(path=path, owner=StoreSettings, field=field, names=(variable_of(path),))


def _language(code: str) -> Iterator[Setting]:
    for setting in _table(LanguageSettings, ("languages", code)):
        prefix = {"warm": "POD_POOL_", "image": "LANG_IMAGE_"}.get(setting.field.name)
        seed = () if prefix is None else (prefix + variable_of((code,)).removeprefix("RUNNERD_"),)
        yield msgspec.structs.replace(setting, names=(*setting.names, *seed))


def _seed_names(field: FieldInfo) -> tuple[str, ...]:
    names = _extra(field).get("env", ())
    return (names,) if isinstance(names, str) else tuple(names)


def _extra(field: FieldInfo) -> dict[str, Any]:
    extra: dict[str, Any] = {}
    pending = [field.type]
    while pending:
        annotation = pending.pop()
        if get_origin(annotation) is Annotated:
            for meta in annotation.__metadata__:
                extra |= (meta.extra or {}) if isinstance(meta, Meta) else {}
        pending += get_args(annotation)
    return extra


def _field(type_: type[Struct], name: str) -> FieldInfo:
    return next(field for field in msgspec.structs.fields(type_) if field.name == name)
