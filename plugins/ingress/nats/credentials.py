"""What a client shows the server: user and password, token, nkey, credentials file, certificates."""

import ssl
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from runnerd import IngressError

if TYPE_CHECKING:
    from . import Nats


def credentials(nats: "Nats") -> dict[str, Any]:
    """Options of `Client.connect` that say who we are. Raises IngressError, naming the setting and the fix."""
    options: dict[str, Any] = {}
    if nats.user:
        options |= {"user": nats.user, "password": nats.password}
    if nats.token:
        options["token"] = nats.token
    for field, option in (("nkey_seed_file", "nkeys_seed"), ("creds_file", "user_credentials")):
        name = getattr(nats, field)
        if not name:
            continue
        if find_spec("nkeys") is None:
            raise IngressError(f"ingress.nats.{field}: needs the package nkeys: pip install 'runnerd[nkeys]'")
        if not Path(name).is_file():
            raise IngressError(f"ingress.nats.{field}: there is no file {name}")
        options[option] = name
    if nats.tls_ca or nats.tls_cert:
        options["tls"] = _tls(nats)
    return options


def _tls(nats: "Nats") -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=nats.tls_ca or None)
        if nats.tls_cert:
            context.load_cert_chain(nats.tls_cert, nats.tls_key or None)
    except OSError as error:  # ssl.SSLError is one
        raise IngressError(f"ingress.nats.tls_ca, tls_cert, tls_key: can't be used: {error}") from None
    return context


def shown(urls: str) -> str:
    """URLs without user and password, for people and for logs."""
    return ", ".join(_without_user(url.strip()) for url in urls.split(","))


def _without_user(url: str) -> str:
    parts = urlsplit(url if "://" in url else f"nats://{url}")
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
