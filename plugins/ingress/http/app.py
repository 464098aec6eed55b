"""The routes and their errors: every body that is not an answer has the shape of `exec.Problem`."""

import asyncio
import math
from collections.abc import Callable
from typing import Annotated, Any

import anyio
import structlog
from litestar import Litestar, Request, Response, post
from litestar.config.cors import CORSConfig
from litestar.connection import ASGIConnection
from litestar.dto import MsgspecDTO
from litestar.exceptions import HTTPException, ValidationException
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler
from litestar.openapi import OpenAPIConfig, ResponseSpec
from litestar.openapi.plugins import SwaggerRenderPlugin
from litestar.params import Body
from litestar.types import Guard
from msgspec import Struct

from runnerd import Conflict, Interrupted, Job, NotFound, OverLimit, Rejected, Result, RunnerdError, Saturated, Services, StoreError

from .document import document_route
from .exec import ExecAnswer, ExecRequest, Malformed, Problem, answer_of, decode_request, job_of, problem_of
from .files import file_routes
from .health import health_routes
from .keys import Keys, Refused
from .metrics import metrics_route
from .scope import Scope
from .state import state_routes

log = structlog.get_logger("runnerd.http")

ERROR_TYPES = {404: "resource_not_found", 408: "timeout", 413: "resource_exhausted", 422: "validation"}
RETRY_AFTER_S = 5.0
"""When those are told to try again who came while the daemon stops."""
CLIENT_GONE = 499
"""For nobody: the connection is closed."""


class Bounds(Struct, frozen=True, kw_only=True):
    """What a request's body may take, in bytes and seconds."""

    body_bytes: int
    body_timeout_s: float


class Page(Struct, frozen=True, kw_only=True):
    """What browsers get: the description at /docs, and whether pages of other origins may call (None: none may)."""

    docs: bool
    metrics: str
    """Who may read the metrics: `key`, `open`, `off`."""
    origins: tuple[str, ...] | None


def create_app(services: Services, *, tenant: str, keys: Keys, bounds: Bounds, page: Page, closing: asyncio.Event) -> Litestar:
    """The application: `/exec` and the probes. Once `closing` is set, waiting requests are answered 503 and their jobs cancelled."""
    guard = _guard(keys)
    routes = [_exec_route(services, tenant, closing, guard), *health_routes(services, guard), document_route(services, guard)]
    if page.metrics != "off":
        routes.append(metrics_route(services, [guard] if page.metrics == "key" else []))
    if services.sessions is not None:
        scope = Scope(tenant=tenant)
        routes += file_routes(services.sessions, scope, guard, bounds.body_timeout_s)
        routes += state_routes(services.sessions, scope, guard, bounds.body_timeout_s)
    return Litestar(
        routes,
        request_class=_bounded(bounds),
        request_max_body_size=bounds.body_bytes,
        exception_handlers={
            Refused: _refused,
            Malformed: _malformed,
            Rejected: _rejected,
            Saturated: _saturated,
            Interrupted: _interrupted,
            NotFound: _error(404, "resource_not_found"),
            Conflict: _error(409, "resource_conflict"),
            OverLimit: _error(413, "resource_exhausted"),
            StoreError: _error(503, "service_unavailable"),
            HTTPException: _http_error,
            Exception: _failure,
        },
        cors_config=None if page.origins is None else CORSConfig(allow_origins=list(page.origins) or ["*"]),
        openapi_config=_description() if page.docs else None,
        logging_config=None,
    )


def _description() -> OpenAPIConfig:
    return OpenAPIConfig(title="runnerd", version="1", path="/docs", render_plugins=[SwaggerRenderPlugin(path="/")])


def _guard(keys: Keys) -> Guard:
    """Runs before a request's body is read."""

    def guard(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        keys.check(connection.headers, connection.client.host if connection.client else "?")

    return guard


def _bounded(bounds: Bounds) -> type[Request[Any, Any, Any]]:
    class BoundedRequest(Request[Any, Any, Any]):
        """A request whose body has to arrive in time; its size Litestar watches while it arrives."""

        async def body(self) -> bytes:
            try:
                async with asyncio.timeout(bounds.body_timeout_s):
                    return await super().body()
            except TimeoutError:
                raise HTTPException(f"the body took longer than {bounds.body_timeout_s:g} s", status_code=408) from None

    return BoundedRequest


class _Body(MsgspecDTO[ExecRequest]):
    def decode_bytes(self, value: bytes) -> ExecRequest:
        return decode_request(value)


_ERRORS = {
    400: ResponseSpec(Problem, description="The job can never run as it is"),
    401: ResponseSpec(Problem, description="No known API key"),
    413: ResponseSpec(Problem, description="The body is too large"),
    422: ResponseSpec(Problem, description="The body is not what is described"),
    502: ResponseSpec(Problem, description="runnerd could not run the job"),
    503: ResponseSpec(Problem, description="No room now; Retry-After says when to try again"),
    504: ResponseSpec(Problem, description="No sandbox was free in time"),
}


def _exec_route(services: Services, tenant: str, closing: asyncio.Event, guard: Guard) -> HTTPRouteHandler:
    @post("/exec", status_code=200, guards=[guard], dto=_Body, return_dto=None, responses=_ERRORS)
    async def exec_job(data: Annotated[ExecRequest, Body()], request: Request[Any, Any, Any]) -> Response[ExecAnswer]:
        """Run a program and answer with how it ended. An `Idempotency-Key` makes a repeated request answer the same."""
        if services.draining():
            raise Saturated("draining: this daemon takes no more jobs", retry_after_s=RETRY_AFTER_S)
        job = job_of(data, tenant, request.headers.get("idempotency-key", ""))
        result = await _result(services, job, request, closing)
        if result is None:
            return Response(None, status_code=CLIENT_GONE)  # type: ignore[arg-type]
        status, answer = answer_of(result, data.files)
        return Response(answer, status_code=status)  # type: ignore[arg-type]

    return exec_job


async def _result(services: Services, job: Job, request: Request[Any, Any, Any], closing: asyncio.Event) -> Result | None:
    """Run the job; None where the client went away first, and the job was cancelled. Raises what `submit` raises."""
    result: Result | None = None
    failure: RunnerdError | None = None

    async def watch_client() -> None:
        # the body has been read, so what comes now is the end of the connection
        while (await request.receive())["type"] != "http.disconnect":
            pass
        tasks.cancel_scope.cancel()

    async def watch_closing() -> None:
        nonlocal failure
        await closing.wait()
        failure = Saturated("this daemon stops, and the job with it: send it again", retry_after_s=RETRY_AFTER_S)
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch_client)
        tasks.start_soon(watch_closing)
        try:
            async for event in services.submit(job):
                if isinstance(event, Result):
                    result = event
        except RunnerdError as error:
            failure = error  # raised below, outside of an exception group
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return result


def _problem(problem: Problem, status: int, headers: dict[str, str] | None = None) -> Response[Problem]:
    return Response(problem, status_code=status, headers=headers)


_CLOSE = {"Connection": "close"}
"""For answers given before the body was read: the connection is of no more use."""


def _refused(_: Request[Any, Any, Any], error: Refused) -> Response[Problem]:
    problem = Problem(error=str(error), error_type="authentication")
    return _problem(problem, 401, {"WWW-Authenticate": "Bearer", **_CLOSE})


def _malformed(_: Request[Any, Any, Any], error: Malformed) -> Response[Problem]:
    return _problem(Problem(error=str(error), error_type="validation", field=error.field), 422)


def _rejected(_: Request[Any, Any, Any], error: Rejected) -> Response[Problem]:
    return _problem(problem_of(str(error), "validation"), 400)


def _saturated(_: Request[Any, Any, Any], error: Saturated) -> Response[Problem]:
    after = max(1, math.ceil(error.retry_after_s))
    problem = Problem(error=str(error), error_type="service_unavailable", retry_after_seconds=after)
    return _problem(problem, 503, {"Retry-After": str(after)})


def _interrupted(request: Request[Any, Any, Any], error: Interrupted) -> Response[Problem]:
    """Given back without a result: the same as no room."""
    return _saturated(request, Saturated(str(error), retry_after_s=RETRY_AFTER_S))


def _error(status: int, error_type: str) -> Callable[[Request[Any, Any, Any], RunnerdError], Response[Problem]]:
    def handle(_: Request[Any, Any, Any], error: RunnerdError) -> Response[Problem]:
        return _problem(problem_of(str(error), error_type), status, _CLOSE if status == 413 else None)

    return handle


def _http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[Problem]:
    """Litestar's own: no such route or method, a body that is missing, too large or too slow."""
    status, text = error.status_code, error.detail
    if isinstance(error, ValidationException):
        status, text = 422, "the body is empty: send a JSON object with lang and code"
    elif status == 413:
        text = f"the body is larger than {request.app.request_max_body_size} bytes: API_MAX_BODY_BYTES is the limit"
    headers = {**(error.headers or {}), **(_CLOSE if status in (408, 413) else {})}
    return _problem(Problem(error=text, error_type=ERROR_TYPES.get(status, "validation")), status, headers)


def _failure(request: Request[Any, Any, Any], error: Exception) -> Response[Problem]:
    """What is nobody's fault but runnerd's. Its text stays in the log."""
    log.error("http_request_failed", path=request.url.path, exc_info=error)
    return _problem(Problem(error="runnerd failed to handle the request; its log says why", error_type="internal_server"), 500)
