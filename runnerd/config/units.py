"""Turns what people write into values: `512Mi`, `30s`, `yes`, `a, b`, and numbers in the unit that a name ends in."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import inspect

_NUMBER = re.compile(r"\s*([+-]?[0-9][0-9_]*(?:\.[0-9]+)?)\s*([A-Za-z%]*)\s*")
_SIZES = {
    "": 1,
    "b": 1,
    **{prefix + ending: 1000**power for power, prefix in enumerate(("k", "m", "g", "t"), 1) for ending in ("", "b")},
    **{prefix + ending: 1024**power for power, prefix in enumerate(("ki", "mi", "gi", "ti"), 1) for ending in ("", "b")},
}
_TIMES = {"ms": 0.001, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_SWITCHES = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}

_BARE = {"_MB": 1 << 20, "_MS": 0.001, "_SECONDS": 1, "_MINUTES": 60, "_HOURS": 3600, "_DAYS": 86400, "_CPU_QUOTA": 1e-5}
"""What a bare number counts, by the end of the variable's name. `…_MB` means MiB, as in the source system."""


def unit_of(field: str) -> str:
    """The unit of a setting, told by the end of its name: `bytes`, `s`, `ms` or nothing."""
    ending = field.rpartition("_")[2]
    return ending if ending in ("bytes", "s", "ms") else ""


def value_of(given: object, type_: Any, unit: str, variable: str = "") -> object:
    """`given` as a value of `type_`. Text is read with its unit; a bare number counts in the unit of `variable`'s name.

    Raises ValueError, saying what would be right.
    """
    wanted = inspect.type_info(type_)
    if isinstance(given, str):
        given = _read(given, wanted, unit, _bare(variable, unit))
    try:
        return msgspec.convert(given, type_)
    except msgspec.ValidationError as error:
        raise ValueError(_plain(str(error))) from None


def written(value: object, unit: str, variable: str) -> str:
    """A value as people would write it for `variable`; the inverse of `value_of`."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return ""
    if isinstance(value, int | float):
        number = value / _bare(variable, unit) if _bare(variable, unit) != 1 else value
        return f"{number:.12g}" if isinstance(number, float) else str(number)
    if isinstance(value, tuple | list | set | frozenset):
        return ",".join(str(item) for item in value)
    if isinstance(value, dict):
        return msgspec.json.encode(value).decode() if value else ""
    return str(value)


def _bare(variable: str, unit: str) -> float:
    scale = next((scale for ending, scale in _BARE.items() if variable.endswith(ending)), None)
    if scale is None:
        return 1
    return scale * 1000 if unit == "ms" else scale


def _read(text: str, wanted: inspect.Type, unit: str, bare: float) -> object:
    kinds = _alternatives(wanted)
    if any(isinstance(kind, inspect.NoneType) for kind in kinds) and text.strip().lower() == "none":
        return None
    for kind in kinds:
        match kind:
            case inspect.StrType():
                return text
            case inspect.LiteralType():
                return _choice(text, kind.values)
            case inspect.BoolType():
                return _switch(text)
            case inspect.IntType() | inspect.FloatType():
                return _number(text, unit, bare, whole=isinstance(kind, inspect.IntType))
            case inspect.ListType() | inspect.VarTupleType() | inspect.SetType() | inspect.FrozenSetType():
                return [_read(item, kind.item_type, unit, bare) if isinstance(item, str) else item for item in _items(text)]
            case inspect.TupleType():
                return _items(text)
            case inspect.DictType():
                return _pairs(text)
    return text


def _alternatives(wanted: inspect.Type) -> tuple[inspect.Type, ...]:
    """The types that a value may have; text comes first, for whatever takes text takes it as it is."""
    if isinstance(wanted, inspect.Metadata):
        return _alternatives(wanted.type)
    if not isinstance(wanted, inspect.UnionType):
        return (wanted,)
    kinds = (kind for below in wanted.types for kind in _alternatives(below))
    return tuple(sorted(kinds, key=lambda kind: not isinstance(kind, inspect.StrType)))


def _choice(text: str, values: Sequence[object]) -> object:
    for value in values:
        if str(value).lower() == text.strip().lower():
            return value
    raise ValueError(f"write one of {', '.join(map(str, values))}")


def _switch(text: str) -> bool:
    try:
        return _SWITCHES[text.strip().lower()]
    except KeyError:
        raise ValueError("write true or false") from None


def _number(text: str, unit: str, bare: float, *, whole: bool) -> float:
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise ValueError(_HINTS[unit])
    number, suffix = float(match[1].replace("_", "")), match[2]
    if not suffix:
        number *= bare
    elif unit == "bytes" and suffix.lower() in _SIZES:
        number *= _SIZES[suffix.lower()]
    elif unit in ("s", "ms") and suffix in _TIMES:
        number *= _TIMES[suffix] * (1000 if unit == "ms" else 1)
    elif not unit and suffix == "m":
        number /= 1000  # as Kubernetes writes CPUs
    else:
        raise ValueError(_HINTS[unit])
    if not whole:
        return number
    if not math.isclose(number, round(number), rel_tol=1e-12):
        raise ValueError("write a whole number")
    return round(number)


_HINTS = {
    "": "write a number",
    "bytes": "write a number of bytes, or a size such as 512Mi or 1.5GB",
    "s": "write a number of seconds, or a time such as 30s, 500ms or 2m",
    "ms": "write a number of milliseconds, or a time such as 30s or 500ms",
}


def _items(text: str) -> list[Any]:
    if text.lstrip().startswith("["):
        try:
            items: list[Any] = msgspec.json.decode(text, type=list)
        except msgspec.DecodeError as error:
            raise ValueError(f"write items with commas between them, or a JSON array: {error}") from None
        return items
    return [item.strip() for item in text.split(",") if item.strip()]


def _pairs(text: str) -> Mapping[str, Any]:
    try:
        pairs: dict[str, Any] = msgspec.json.decode(text, type=dict)
    except msgspec.DecodeError as error:
        raise ValueError(f"write a JSON object: {error}") from None
    return pairs


def _plain(message: str) -> str:
    """msgspec's message in the words of a settings file."""
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    return message[:1].lower() + message[1:]


_WORDS = {
    "`int | null`": "whole number",
    "`float | null`": "number",
    "`int`": "whole number",
    "`float`": "number",
    "`bool`": "true or false",
    "`str`": "text",
    "`array`": "list",
    "`object`": "table",
    "`": "",
}
