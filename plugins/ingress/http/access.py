"""One log line per request that was answered: what was asked, by whom, with what status. Never a body, a key or a query."""

import time
from collections.abc import Callable
from typing import cast

import structlog
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

log = structlog.get_logger("runnerd.access")
FIRST_ERROR = 400


def logged(app: ASGIApp, happened: Callable[[str], None]) -> ASGIApp:
    """`app`, with a line for each of its answers; refusals are told to `happened` as well."""

    async def logging_app(scope: Scope, receive: Receive, send: Send) -> None:
        asked = cast("HTTPScope", scope)  # the listener has neither web sockets nor lifespan
        began = time.perf_counter()
        status = 0

        async def noting_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        await app(scope, receive, noting_send)
        if status >= FIRST_ERROR:
            happened(f"status_{status}")
        client = asked["client"]
        log.info(
            "http request",
            method=asked["method"],
            path=asked["path"][:200],
            status=status,
            ms=round((time.perf_counter() - began) * 1000, 1),
            peer=client[0] if client else "?",
        )

    return logging_app
