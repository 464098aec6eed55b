"""Where the broker is and what we show it: URLs with user and password, a password file, certificates."""

import ssl
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from msgspec import Struct
from yarl import URL

from runnerd import IngressError

from .shown import shown

if TYPE_CHECKING:
    from . import RabbitMq

_PORTS = {"amqp": 5672, "amqps": 5671}


class Place(Struct, frozen=True, kw_only=True):
    """One broker, and how to get in."""

    url: URL
    tls: ssl.SSLContext | None
    shown: str
    """Host, port and virtual host, for people and for logs: no user, no password."""


def places(settings: "RabbitMq") -> list[Place]:
    """The brokers to try, in order. Reads the password file anew. Raises IngressError, naming the setting and the fix."""
    return [_place(settings, each.strip()) for each in settings.url.split(",")]


def _place(settings: "RabbitMq", text: str) -> Place:
    try:
        url = URL(text)
        host, port = url.host, url.port or _PORTS[url.scheme]
    except (ValueError, KeyError):
        host = None
    if not host:
        raise IngressError(f"ingress.rabbitmq.url: {shown(text)!r}: write it as amqp://host:5672/vhost or amqps://host:5671/vhost")
    user = settings.user or url.user
    password = _password(settings) or url.password
    vhost = settings.vhost or url.path.removeprefix("/") or "/"
    # the library unquotes a virtual host's slashes only where they were quoted
    whole = URL.build(
        scheme=url.scheme,
        user=quote(user, safe="") if user else None,
        password=quote(password, safe="") if password else None,
        host=host,
        port=port,
        path="/" + quote(vhost, safe=""),
        query_string=f"heartbeat={settings.heartbeat_s}&auth={settings.auth}",
        encoded=True,
    )
    tls = _tls(settings) if url.scheme == "amqps" else None
    return Place(url=whole, tls=tls, shown=f"{host}:{port}, virtual host {vhost!r}")


def _password(settings: "RabbitMq") -> str:
    if not settings.password_file:
        return settings.password
    try:
        return Path(settings.password_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise IngressError(f"ingress.rabbitmq.password_file: {settings.password_file} can't be read: {reason}") from None


def _tls(settings: "RabbitMq") -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca or None)
        if settings.tls_cert:
            context.load_cert_chain(settings.tls_cert, settings.tls_key or None)
    except OSError as error:  # ssl.SSLError is one
        raise IngressError(f"ingress.rabbitmq.tls_ca, tls_cert, tls_key: can't be used: {error}") from None
    return context
