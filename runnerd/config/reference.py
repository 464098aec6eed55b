"""Describes every setting: for the documentation's tables, for `.env.example`, and for `runnerd config show`."""

import re
import textwrap
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import NODEFAULT, Struct

from ..documented import documented
from ..plugins import Plugins
from . import Config
from .schema import Setting, is_secret, settings_of, struct_of
from .sources import Given, Path_, Table
from .units import written

REQUIRED = "(required)"
MIB = " A bare number counts MiB here."
_PASSWORD = re.compile(r"(://[^/@\s:]*:)[^/@\s]+@")


class Row(Struct, frozen=True, kw_only=True):
    """One setting, in words."""

    setting: str
    """`limits.wall_s`; `store.kv.path` of kind `disk` stands as `store.kv.path (disk)`."""
    variables: tuple[str, ...]
    default: str
    unit: str
    meaning: str


def reference(plugins: Plugins) -> list[Row]:
    """All settings that the plugins of this installation have, in the order of the tree."""
    return [_row(setting) for setting in settings_of(plugins)]


def template(plugins: Plugins) -> str:
    """A `.env` file with every setting, commented out, each with its meaning and default."""
    lines = ["# Every setting of runnerd, with its default. Take the # away and change what you need; empty means default."]
    table = ""
    for setting in settings_of(plugins):
        if table != (table := _heading(setting)):
            lines += ["", f"# --- {table} ---"]
        variable = setting.names[-1]
        default = _default(setting, variable)
        meaning = textwrap.wrap(f"{meaning_of(setting)}{MIB if variable.endswith('_MB') else ''}", 110, break_on_hyphens=False)
        lines += ["", *(f"# {line}" for line in meaning), f"#{variable}={'' if default == REQUIRED else default}"]
    return "\n".join([*lines, ""])


def markdown(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| setting | variables | default | meaning |", "|---|---|---|---|"]
    for row in rows:
        variables = " ".join(f"`{name}`" for name in row.variables)
        default = f"`{row.default}`{' ' + row.unit if row.unit else ''}" if row.default else ""
        meaning = row.meaning.replace("|", "\\|")
        lines.append(f"| `{row.setting}` | {variables} | {default} | {meaning} |")
    return "\n".join([*lines, ""])


def shown(config: Config) -> dict[str, tuple[str, str]]:
    """Every setting that holds, secrets masked, with the place that it comes from."""
    places = dict(_places(config.written, ()))
    return {
        ".".join(path): (_masked(value, secret=secret), places.get(path, "default"))
        for path, value, secret in _values(config.settings, ())
    }  # fmt: skip


def meaning_of(setting: Setting) -> str:
    """The docstring under a setting's field, in one line; of a base class where the class has none."""
    if setting.path[-1] == "kind":
        part = documented(setting.owner)[setting.path[1]]
        return f"Kind of the store. {part}"
    return next((found[setting.field.name] for type_ in setting.owner.__mro__ if setting.field.name in (found := documented(type_))), "")


def _row(setting: Setting) -> Row:
    return Row(
        setting=setting.dotted + (f" ({setting.kind})" if setting.path[0] == "store" and setting.kind else ""),
        variables=setting.names,
        default=_default(setting),
        unit=setting.unit,
        meaning=meaning_of(setting),
    )


def _default(setting: Setting, variable: str = "") -> str:
    field = setting.field
    if field.default_factory is not NODEFAULT:
        return written(field.default_factory(), setting.unit, variable)
    if field.default is not NODEFAULT:
        return written(field.default, setting.unit, variable)
    return "" if setting.path == ("state_dir",) else REQUIRED


def _heading(setting: Setting) -> str:
    name = ".".join(setting.path[:-1]) or "runnerd"
    return f"{name}, for kind {setting.kind}" if setting.path[0] == "store" and setting.kind else name


def _values(struct: Struct, path: Path_) -> Iterator[tuple[Path_, Any, bool]]:
    kind = struct.__struct_config__.tag
    if path[:1] == ("store",) and kind:
        yield (*path, "kind"), kind, False
    for field in msgspec.structs.fields(type(struct)):
        value = getattr(struct, field.name)
        if isinstance(value, Struct):
            yield from _values(value, (*path, field.encode_name))
        elif isinstance(value, dict) and value and all(isinstance(below, Struct) for below in value.values()):
            for key, below in value.items():
                yield from _values(below, (*path, field.encode_name, key))
        elif not isinstance(value, dict) or struct_of(field.type) is None:
            yield (*path, field.encode_name), value, is_secret(field)


def _places(table: Table, path: Path_) -> Iterator[tuple[Path_, str]]:
    for key, below in table.entries.items():
        if isinstance(below, Given):
            yield (*path, key), below.place
        else:
            yield from _places(below, (*path, key))


def _masked(value: Any, *, secret: bool) -> str:
    text = written(value, "", "")
    return "********" if secret and text else _PASSWORD.sub(r"\1********@", text)
