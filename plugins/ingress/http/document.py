"""`GET /asyncapi.json`: every address of the daemon that takes jobs, on a bus or here."""

from typing import Any

from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.types import Guard

from runnerd import Services


def document_route(services: Services, guard: Guard) -> HTTPRouteHandler:
    """The document, for those with a key: it names the daemon's buses."""

    @get("/asyncapi.json", guards=[guard])
    async def asyncapi() -> dict[str, Any]:
        """Addresses and messages of this daemon, as an AsyncAPI document."""
        return await services.asyncapi()

    return asyncapi
