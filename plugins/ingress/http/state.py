"""Variables of a session's interpreter over HTTP: fetch, put, look at, forget. The bytes are opaque here and never unpickled."""

from typing import Any

from litestar import Request, Response, delete, get, route
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.response import Stream
from litestar.types import Guard
from msgspec import Struct

from runnerd import NotFound, Sessions, Snapshot

from .described import iso
from .incoming import patiently
from .scope import Scope

_AnyRequest = Request[Any, Any, Any]


class StateAnswer(Struct, kw_only=True):
    """What was stored."""

    message: str
    size: int
    hash: str


class StateReport(Struct, kw_only=True):
    """What there is to know of a session's state."""

    exists: bool
    session_id: str
    size_bytes: int | None = None
    hash: str | None = None
    created_at: str | None = None
    expires_at: str | None = None
    source: str | None = None
    """`store`, or `archive` after some time without use."""


def state_routes(sessions: Sessions, scope: Scope, guard: Guard, body_timeout_s: float) -> list[HTTPRouteHandler]:
    """All routes about state."""

    @get("/state/{session_id:str}", guards=[guard])
    async def load(request: _AnyRequest, session_id: FromPath[str]) -> Response[Any]:
        """The snapshot; its hash is the ETag."""
        snapshot, content = await sessions.load(scope.of(request), session_id)
        headers = _headers(snapshot)
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(None, status_code=304, headers=headers)
        headers["Content-Length"] = str(snapshot.size)
        return Stream(content, headers=headers, media_type="application/octet-stream")

    @route(
        "/state/{session_id:str}",
        http_method=[HttpMethod.POST, HttpMethod.PUT],
        status_code=201,
        guards=[guard],
        request_max_body_size=None,
    )
    async def save(request: _AnyRequest, session_id: FromPath[str]) -> Response[StateAnswer]:
        """Put a snapshot in the place of the one whose hash `If-Match` names; of whatever is there without that header."""
        body = patiently(request, body_timeout_s)
        snapshot = await sessions.save(scope.of(request), session_id, body, _expected(request))
        answer = StateAnswer(message="state_uploaded", size=snapshot.size, hash=snapshot.hash)
        return Response(answer, status_code=201, headers=_headers(snapshot))

    @get("/state/{session_id:str}/info", guards=[guard])
    async def look(request: _AnyRequest, session_id: FromPath[str]) -> StateReport:
        """Whether there is one, how large, and until when."""
        try:
            snapshot = (await sessions.find(scope.of(request), session_id)).snapshot
        except NotFound:
            snapshot = None
        return StateReport(exists=False, session_id=session_id) if snapshot is None else _report(session_id, snapshot)

    @delete("/state/{session_id:str}", guards=[guard], status_code=204)
    async def forget(request: _AnyRequest, session_id: FromPath[str]) -> None:
        """Have the next job start with a clean namespace. No error where there is nothing."""
        try:
            await sessions.forget(scope.of(request), session_id, _expected(request))
        except NotFound:
            return

    return [load, save, look, forget]


def _report(session_id: str, snapshot: Snapshot) -> StateReport:
    return StateReport(
        exists=True,
        session_id=session_id,
        size_bytes=snapshot.size,
        hash=snapshot.hash,
        created_at=iso(snapshot.created),
        expires_at=iso(snapshot.expires),
        source="archive" if snapshot.archived else "store",
    )


def _headers(snapshot: Snapshot) -> dict[str, str]:
    return {"ETag": f'"{snapshot.hash}"'}


def _expected(request: _AnyRequest) -> str | None:
    """The hash in `If-Match`; None where there is no such header, or any will do."""
    value = request.headers.get("if-match")
    return None if value is None or value == "*" else value.strip().strip('"')
