"""JSON Schema of types, each field with the meaning that stands under it in the source."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from .documented import documented

Object = dict[str, Any]
PLACE = "#/components/schemas/"
"""Where references of a schema point to."""


def schemas_of(types: Iterable[Any]) -> tuple[list[Object], dict[str, Object]]:
    """A schema for each type, in their order, and those of all Structs that they are made of, by name."""
    types = tuple(types)
    refs, components = msgspec.json.schema_components(types, ref_template=PLACE + "{name}")
    meanings = {type_.__name__: documented(type_) for type_ in _structs(types)}
    return list(refs), {name: _explained(schema, meanings.get(schema.get("title", ""), {})) for name, schema in components.items()}


def renamed(schema: Any, names: Mapping[str, str]) -> Any:
    """The schema with its references to `names` turned into those to their new ones."""
    if isinstance(schema, list):
        return [renamed(each, names) for each in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {key: renamed(value, names) for key, value in schema.items()}
    if isinstance(reference := schema.get("$ref"), str):
        name = reference.removeprefix(PLACE)
        changed["$ref"] = PLACE + names.get(name, name)
    return changed


def _explained(schema: Object, meanings: Mapping[str, str]) -> Object:
    if "properties" not in schema:
        return schema
    return {**schema, "properties": {name: _field(field, meanings.get(name, "")) for name, field in schema["properties"].items()}}


def _field(field: Object, meaning: str) -> Object:
    if meaning:
        field = {**field, "description": meaning}
    if "$ref" in field and len(field) > 1:  # what stands beside a reference is not read, so it goes one deeper
        field = {**field, "allOf": [{"$ref": field["$ref"]}]}
        del field["$ref"]
    return field


def _structs(types: Iterable[Any]) -> set[type[Struct]]:
    """All Structs that the types are made of."""
    found: set[type[Struct]] = set()
    pending: list[Any] = list(msgspec.inspect.multi_type_info(types))
    while pending:
        info = pending.pop()
        match info:
            case msgspec.inspect.StructType() if info.cls not in found:
                found.add(info.cls)
                pending += [field.type for field in info.fields]
            case msgspec.inspect.UnionType():
                pending += info.types
            case msgspec.inspect.CollectionType():
                pending.append(info.item_type)
            case msgspec.inspect.DictType():
                pending.append(info.value_type)
            case msgspec.inspect.Metadata():
                pending.append(info.type)
    return found
