"""`/metrics`: what the daemon counts, for Prometheus."""

from collections.abc import Sequence

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.types import Guard

from runnerd import Services

CONTENT_TYPE = "text/plain; version=0.0.4"
"""Without its charset, which is added."""


def metrics_route(services: Services, guards: Sequence[Guard]) -> HTTPRouteHandler:
    """The route, open to those whom the guards let in."""

    @get("/metrics", guards=guards, media_type=CONTENT_TYPE)
    async def metrics() -> Response[bytes]:
        """Counts and gauges in the text format of Prometheus."""
        return Response(services.metrics(), media_type=CONTENT_TYPE)

    return metrics
