"""Paths as clients write them: `/v1` in front is part of some clients' base address, and a base that ends in `/` doubles it."""

import re

from litestar.types import ASGIApp, Receive, Scope, Send

_VERSION = "/v1"


def plain(path: str) -> str:
    """The path that is meant."""
    path = re.sub("/{2,}", "/", path)
    return path.removeprefix(_VERSION) or "/" if path == _VERSION or path.startswith(_VERSION + "/") else path


def forgiving(app: ASGIApp) -> ASGIApp:
    """`app`, asked for the path that is meant."""

    async def forgiving_app(scope: Scope, receive: Receive, send: Send) -> None:
        if "path" in scope:
            path = plain(scope["path"])
            scope = {**scope, "path": path, "raw_path": path.encode()}  # type: ignore[assignment]
        await app(scope, receive, send)

    return forgiving_app
