"""Probes: `/health` says that the process answers, `/ready` whether a job sent now would run."""

from typing import Any

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.types import Guard
from msgspec import Struct

from runnerd import Services


class Health(Struct, kw_only=True):
    """The process answers."""

    status: str = "healthy"


class Readiness(Struct, kw_only=True):
    """Whether jobs are taken, and why not."""

    status: str
    reasons: list[str] = []


def readiness(services: Services) -> Readiness:
    """Ready, or what stands in the way."""
    reasons = []
    if services.draining():
        reasons.append("draining: takes no more jobs")
    elif services.free() <= 0:
        reasons.append("no sandbox is free")
    refusal = services.health().get("refuses")
    if refusal:
        reasons.append(str(refusal))
    return Readiness(status="not ready" if reasons else "ready", reasons=reasons)


def health_routes(services: Services, guard: Guard) -> list[HTTPRouteHandler]:
    """The probes, open to all, and `/health/detailed` for those with a key."""

    @get("/health")
    async def health() -> Health:
        """Whether the process answers. Says nothing else."""
        return Health()

    @get("/ready")
    async def ready() -> Response[Readiness]:
        """Whether a job that comes now would run: 200, or 503 with the reasons."""
        state = readiness(services)
        return Response(state, status_code=503 if state.reasons else 200)

    @get("/health/detailed", guards=[guard])
    async def detailed() -> dict[str, Any]:
        """State of the daemon's parts."""
        return services.health()

    return [health, ready, detailed]
