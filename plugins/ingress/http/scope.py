"""Whose session a request is about: the tenant of its key, and what it says of user and entity itself."""

from collections.abc import Mapping
from typing import Any

from litestar import Request
from msgspec import Struct

from runnerd import TOKEN, Owner

from .exec import Malformed

_OWN = "user"
"""The kind of a scope that is the caller's own: its id says nothing that can be relied on."""


class Scope(Struct, frozen=True, kw_only=True):
    """How requests name owners."""

    tenant: str

    def of(self, request: Request[Any, Any, Any], fields: Mapping[str, str] | None = None) -> Owner:
        """The owner that a request names, in its form's fields or its query: `entity_id`, or `kind` and `id`. Raises Malformed."""
        said = {**request.query_params, **(fields or {})}
        entity = str(said.get("entity_id", ""))
        kind = str(said.get("kind", ""))
        if not entity and kind and kind != _OWN:
            entity = str(said.get("id", ""))
        return Owner(tenant=self.tenant, entity=checked_entity(entity))


def checked_entity(entity: str) -> str:
    """Return an entity that can be one. Raises Malformed."""
    if entity and not TOKEN.fullmatch(entity):
        raise Malformed(f"entity_id: {entity[:80]!r} must match {TOKEN.pattern}", "entity_id")
    return entity
