"""Makes checked settings of what was written, and notes every problem with its place and a suggestion."""

import difflib
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import FieldInfo

from ..errors import ConfigError
from ..plugins import Plugins
from ..spec import Ingress
from ..store import Store
from .reuse import refusals
from .schema import PARTS, able, is_secret, struct_of, variable_of
from .sources import Given, Path_, Table
from .tree import EMBEDDED_INGRESS, EMBEDDED_STORE, LanguageSettings, Settings, StoreSettings
from .units import unit_of, value_of


class Findings(Struct, kw_only=True):
    """What was found while settings were read."""

    plugins: Plugins

    problems: list[str] = []
    """Each stops the daemon."""
    hints: list[str] = []
    """What may be behind a problem."""
    notes: list[str] = []
    """Each is something that people may not expect."""

    def missing(self, what: str, name: str, known: Iterable[str], place: str) -> None:
        """A setting names a language or kind that is not there; a broken plugin may have it."""
        near = closest(name, known) or f", only {', '.join(known) or 'none at all'}"
        self.problems.append(f"{place}: there is no {what} {name!r}{near}")
        broken = (f"broken plugin, which may have what is missing: {broken}; see `runnerd plugins`" for broken in self.plugins.broken)
        self.hints.extend(hint for hint in broken if hint not in self.hints)


def build_settings(root: Table, findings: Findings, default_state_dir: str) -> Settings | None:
    """The whole tree, None where a problem was found."""
    tables = {field.name: field for field in msgspec.structs.fields(Settings)}
    values: dict[str, Any] = {"state_dir": default_state_dir}
    for key, below in root.entries.items():
        if key not in tables:
            shown = f"[{key}]" if isinstance(below, Table) else key
            findings.problems.append(f"{below.place}: {shown} is not known{closest(key, tables)}")
        elif key == "state_dir":
            _set(values, tables[key], below, (key,), findings)
        elif isinstance(below, Given):
            findings.problems.append(f"{below.place}: {key} is a table: write [{key}]")
    for name, field in tables.items():
        if (struct := struct_of(field.type)) is not None and name != "store":
            values[name] = build(struct, _below(root, name), (name,), findings)
    state_dir = str(values["state_dir"])
    values["languages"] = _languages(_below(root, "languages"), findings)
    values["ingress"] = _ingress(_below(root, "ingress"), findings, state_dir)
    values["store"] = _stores(_below(root, "store"), findings, state_dir)
    if findings.problems:
        return None
    settings = Settings(**values)
    findings.problems += refusals(settings)
    return None if findings.problems else settings


def build(type_: type[Struct], table: Table, path: Path_, findings: Findings, **preset: Any) -> Struct | None:
    """One table as its Struct, None where a problem was found."""
    before = len(findings.problems)
    fields = {field.encode_name: field for field in msgspec.structs.fields(type_)}
    values = {name: value for name, value in preset.items() if name in fields}
    for key, below in table.entries.items():
        if (field := fields.get(key)) is None:
            findings.problems.append(f"{below.place}: {_dotted(path, key)} is not known{closest(key, fields)}")
        elif (struct := struct_of(field.type)) is None:
            _set(values, field, below, (*path, key), findings)
        elif isinstance(below, Table):
            values[field.name] = build(struct, below, (*path, key), findings)
        else:
            findings.problems.append(f"{below.place}: {_dotted(path, key)} is a table: write [{_dotted(path, key)}]")
    for key, field in fields.items():
        if field.required and key not in table.entries and field.name not in values:
            findings.problems.append(f"{table.place}: {_dotted(path, key)} is missing: set it, or {variable_of((*path, key))}")
    if len(findings.problems) > before:
        return None
    try:
        return type_(**values)
    except (ValueError, TypeError, ConfigError) as error:  # from a __post_init__
        findings.problems.append(f"{_culprit(table, str(error))}: {_dotted(path)}: {error}")
        return None


def closest(word: str, known: Iterable[str]) -> str:
    """` - did you mean …?`, or nothing where no known word is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f": did you mean {near[0]}?" if near else ""


def _set(values: dict[str, Any], field: FieldInfo, below: Table | Given, path: Path_, findings: Findings) -> None:
    given = below.plain() if isinstance(below, Table) else below.value
    variable = "" if isinstance(below, Table) else below.variable
    try:
        values[field.name] = value_of(given, field.type, unit_of(field.name), variable)
    except ValueError as error:
        shown = "" if is_secret(field) else f" = {given!r}"
        findings.problems.append(f"{below.place}: {_dotted(path)}{shown}: {error}")


def _languages(table: Table, findings: Findings) -> dict[str, Any]:
    languages = {}
    for code, below in table.entries.items():
        if code in findings.plugins.aliases:
            findings.problems.append(f"{below.place}: languages.{code} is an alias: write languages.{findings.plugins.aliases[code]}")
        elif code not in findings.plugins.languages:
            findings.missing("language", code, findings.plugins.languages, below.place)
        elif isinstance(below, Given):
            findings.problems.append(f"{below.place}: languages.{code} is a table: write [languages.{code}]")
        else:
            languages[code] = build(LanguageSettings, below, ("languages", code), findings)
    return languages


def _ingress(table: Table, findings: Findings, state_dir: str) -> dict[str, Any]:
    tables = {kind: Table(place=f"embedded default ingress.{kind}") for kind in EMBEDDED_INGRESS} | table.entries
    opened = {}
    for kind, below in tables.items():
        if isinstance(below, Given):
            findings.problems.append(f"{below.place}: ingress.{kind} is a table: write [ingress.{kind}]")
        elif (type_ := findings.plugins.ingress.get(kind)) is not None:
            ingress = build(type_, below, ("ingress", kind), findings, **_inherited(type_, below, state_dir))
            if isinstance(ingress, Ingress) and ingress.enabled:
                opened[kind] = ingress
        elif _is_off(below):
            findings.notes.append(f"{below.place}: there is no ingress {kind!r}, and it is not enabled")
        else:
            findings.missing("ingress", kind, findings.plugins.ingress, below.place)
    return opened


def _stores(table: Table, findings: Findings, state_dir: str) -> StoreSettings | None:
    for key, below in table.entries.items():
        if key not in PARTS:
            findings.problems.append(f"{below.place}: store.{key} is not known{closest(key, PARTS)}")
    built = {part: _store(part, _below(table, part), findings, state_dir) for part in PARTS}
    kv, blob = built["kv"], built["blob"]
    return StoreSettings(kv=kv, blob=blob) if kv is not None and blob is not None else None


def _store(part: str, table: Table, findings: Findings, state_dir: str) -> Store | None:
    named = table.entries.get("kind", Given(value=EMBEDDED_STORE, place=f"embedded default store.{part}", rank=-1))
    kind = named.value if isinstance(named, Given) else named.plain()
    types = {name: type_ for name, type_ in findings.plugins.stores.items() if able(type_, part)}
    if kind not in types:
        findings.missing("store of keys and values" if part == "kv" else "store of blobs", str(kind), types, named.place)
        return None
    type_ = types[str(kind)]
    entries = {key: below for key, below in table.entries.items() if key != "kind"}
    known = {field.encode_name for field in msgspec.structs.fields(type_)}
    for key, below in list(entries.items()):
        # a source that names another kind takes the weaker sources' fields of the former kind out of use
        if key not in known and isinstance(below, Given) and isinstance(named, Given) and below.rank < named.rank:
            findings.notes.append(f"{below.place}: has no effect: {named.place} makes it a store of kind {kind}")
            del entries[key]
    for key in [key for key in entries if key not in known]:
        if others := [name for name, other in types.items() if any(field.encode_name == key for field in msgspec.structs.fields(other))]:
            place = entries.pop(key).place
            findings.problems.append(f"{place}: store.{part}.{key} is a setting of kind {' and '.join(others)}, and the kind is {kind}")
    mine = Table(place=table.place, entries=entries)
    store = build(type_, mine, ("store", part), findings, **_inherited(type_, mine, state_dir))
    return store if isinstance(store, Store) else None


def _inherited(type_: type[Struct], table: Table, state_dir: str) -> dict[str, Any]:
    """What a plugin's table takes from the daemon, unless it says otherwise itself."""
    takes = any(field.name == "state_dir" for field in msgspec.structs.fields(type_))
    return {"state_dir": state_dir} if takes and "state_dir" not in table.entries else {}


def _is_off(table: Table) -> bool:
    given = table.entries.get("enabled")
    return isinstance(given, Given) and str(given.value).strip().lower() in ("false", "no", "off", "0")


def _below(table: Table, key: str) -> Table:
    below = table.entries.get(key)
    return below if isinstance(below, Table) else Table(place=f"{table.place}")


def _culprit(table: Table, message: str) -> str:
    """The place of the field that a message starts with, else of the table."""
    below = table.entries.get(message.partition(":")[0])
    named = (given for given in table.entries.values() if isinstance(given, Given) and given.variable and given.variable in message)
    return (below or next(named, table)).place


def _dotted(path: Path_, *more: str) -> str:
    return ".".join((*path, *more))
