"""Jobs over HTTP: `POST /exec` answers with the result; files and state of sessions; `/health` and `/ready` for probes.

`/asyncapi.json` describes every address of the daemon. `app` has the routes and their errors; `exec`, `files`, `state` and
`health` what they answer; `server` the listener, `keys` who may come in.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Literal

from msgspec import Meta

from runnerd import Description, Ingress, Language, Services, hookimpl

from .keys import open_keys, spelt_keys


class Http(Ingress, tag="http", frozen=True, kw_only=True):
    """Settings of the HTTP ingress."""

    host: Annotated[str, Meta(extra={"env": "API_HOST"})] = "127.0.0.1"
    """Address to listen on. Loopback by default: other machines need 0.0.0.0 or :: and, better, a proxy with TLS."""
    port: Annotated[int, Meta(ge=0, le=65535, extra={"env": "API_PORT"})] = 8000
    """Port to listen on; 0 takes a free one."""
    api_key: Annotated[str, Meta(extra={"env": "API_KEY", "secret": True})] = ""
    """The key that callers send, at least 16 characters. With neither this nor `api_keys`, one is made at the first start."""
    api_keys: Annotated[tuple[str, ...], Meta(extra={"env": "API_KEYS", "secret": True})] = ()
    """More keys; @FILE stands for those in a file, one per line."""
    api_key_header: Annotated[str, Meta(pattern="^[A-Za-z0-9-]{1,64}$", extra={"env": "API_KEY_HEADER"})] = "x-api-key"
    """Header that carries the key. `Authorization: Bearer KEY` works as well."""
    tenant: Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{1,64}$", extra={"env": "API_TENANT"})] = "default"
    """Whose jobs they are."""
    state_dir: str = ""
    """Directory of the key that was made here; set from the daemon's own."""
    body_bytes: Annotated[int, Meta(ge=1024, extra={"env": "API_MAX_BODY_BYTES"})] = 10 << 20
    """Largest request body, in bytes; more is refused (413) before it is read."""
    connections: Annotated[int, Meta(ge=1, extra={"env": "API_MAX_CONNECTIONS"})] = 1000
    """Connections open at once; more are closed as they come."""
    keep_alive_s: Annotated[float, Meta(gt=0, extra={"env": "API_TIMEOUT_KEEP_ALIVE"})] = 75.0
    """How long an idle connection stays open, in seconds. Less than 60 makes Node's clients fail now and then."""
    head_timeout_s: Annotated[float, Meta(gt=0, extra={"env": "API_TIMEOUT_HEAD"})] = 30.0
    """How long a request's head may take to arrive, in seconds; the connection is closed then."""
    body_timeout_s: Annotated[float, Meta(gt=0, extra={"env": "API_TIMEOUT_BODY"})] = 60.0
    """How long a request's body may take to arrive, in seconds; the answer is 408 then."""
    close_timeout_s: Annotated[float, Meta(gt=0, extra={"env": "API_TIMEOUT_CLOSE"})] = 5.0
    """How long cancelled requests get to end when the daemon's grace is over, in seconds."""
    metrics: Literal["key", "open", "off"] = "key"
    """Who may read /metrics, for Prometheus: those with a key (as a bearer token), everybody, or nobody."""
    docs: Annotated[bool, Meta(extra={"env": "ENABLE_DOCS"})] = False
    """Serve the API's description at /docs, open to all."""
    cors: Annotated[bool, Meta(extra={"env": "ENABLE_CORS"})] = False
    """Let pages of other origins call. Cookies never count; the key is a header."""
    cors_origins: Annotated[tuple[str, ...], Meta(extra={"env": "CORS_ORIGINS"})] = ()
    """Which origins, such as https://example.org. Empty: any."""

    def __post_init__(self) -> None:
        spelt_keys(self.api_key, self.api_keys)

    def __repr__(self) -> str:
        return f"Http(host={self.host!r}, port={self.port})"  # never the keys

    def listens(self) -> tuple[tuple[str, int], ...]:
        """See `Ingress.listens`."""
        return ((self.host, self.port),)

    def describe(self, languages: Mapping[str, Language], address: str) -> Description:
        """See `Ingress.describe`."""
        from . import description  # noqa: PLC0415 - only those who ask for it need it

        return description.describe(self, languages, address)

    @asynccontextmanager
    async def open(self, services: Services) -> AsyncGenerator[str]:
        """Take requests while the block is open. Raises IngressError and ConfigError."""
        from . import access, app, paths, server  # noqa: PLC0415 - the libraries take long to import, and most commands open none

        keys, notice = open_keys(self.api_key, self.api_keys, self.api_key_header, self.state_dir)
        bodies = app.Bounds(body_bytes=self.body_bytes, body_timeout_s=self.body_timeout_s)
        page = app.Page(docs=self.docs, metrics=self.metrics, origins=self.cors_origins if self.cors else None)
        connections = server.Bounds(
            connections=self.connections,
            keep_alive_s=self.keep_alive_s,
            head_timeout_s=self.head_timeout_s,
            close_timeout_s=self.close_timeout_s,
        )
        closing = asyncio.Event()
        routes = app.create_app(services, tenant=self.tenant, keys=keys, bounds=bodies, page=page, closing=closing)
        with server.bind(self.host, self.port) as listener:
            address = server.url_of(listener)
            async with server.serve(access.logged(paths.forgiving(routes), services.happened), listener, connections, closing):
                yield f"{address} ({notice})"


@hookimpl
def register_ingress() -> list[type[Ingress]]:
    """The ingress of kind `http`."""
    return [Http]
