"""What a client shows the server: user and password, token, nkey, credentials file, certificates."""

import ssl
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from runnerd import StoreError

if TYPE_CHECKING:
    from . import JetStream


def credentials(store: "JetStream") -> dict[str, Any]:
    """Options of `nats.connect` that say who we are. Raises StoreError, naming the setting and the fix."""
    options: dict[str, Any] = {}
    if store.user:
        options |= {"user": store.user, "password": store.password}
    if store.token:
        options["token"] = store.token
    for field, option in (("nkey_seed_file", "nkeys_seed"), ("creds_file", "user_credentials")):
        name = getattr(store, field)
        if not name:
            continue
        if find_spec("nkeys") is None:
            raise StoreError(f"store.jetstream.{field}: needs the package nkeys: pip install 'runnerd[nkeys]'")
        if not Path(name).is_file():
            raise StoreError(f"store.jetstream.{field}: there is no file {name}")
        options[option] = name
    if store.tls_ca or store.tls_cert:
        options["tls"] = _tls(store)
    return options


def _tls(store: "JetStream") -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=store.tls_ca or None)
        if store.tls_cert:
            context.load_cert_chain(store.tls_cert, store.tls_key or None)
    except OSError as error:  # ssl.SSLError is one
        raise StoreError(f"store.jetstream.tls_ca, tls_cert, tls_key: can't be used: {error}") from None
    return context


def shown(urls: str) -> str:
    """URLs without user and password, for people and for logs."""
    return ", ".join(_without_user(url.strip()) for url in urls.split(","))


def _without_user(url: str) -> str:
    parts = urlsplit(url if "://" in url else f"nats://{url}")
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
