"""What a client shows a NATS server: user and password, token, nkey, credentials file, certificates.

An ingress and a store connect to one, and plugins do not know each other: so this is here. The library is theirs.
"""

import ssl
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from .errors import RunnerdError


class NatsAccess(Struct, frozen=True):
    """The settings that say who we are, each empty where it is not used; files are paths."""

    user: str
    password: str
    token: str
    nkey_seed_file: str
    creds_file: str
    tls_ca: str
    tls_cert: str
    tls_key: str


def nats_access(settings: Struct, table: str, error: type[RunnerdError]) -> dict[str, Any]:
    """Options of `nats.connect` that say who we are, from settings that have the fields of `NatsAccess`.

    Raises `error`, naming the setting in its table and the fix.
    """
    who = msgspec.convert(settings, NatsAccess, from_attributes=True)
    options: dict[str, Any] = {}
    if who.user:
        options |= {"user": who.user, "password": who.password}
    if who.token:
        options["token"] = who.token
    for field, option in (("nkey_seed_file", "nkeys_seed"), ("creds_file", "user_credentials")):
        name = getattr(who, field)
        if not name:
            continue
        if find_spec("nkeys") is None:
            raise error(f"{table}.{field}: needs the package nkeys: pip install 'runnerd[nkeys]'")
        if not Path(name).is_file():
            raise error(f"{table}.{field}: there is no file {name}")
        options[option] = name
    if who.tls_ca or who.tls_cert:
        try:
            options["tls"] = _tls(who)
        except OSError as why:  # ssl.SSLError is one
            raise error(f"{table}.tls_ca, tls_cert, tls_key: can't be used: {why}") from None
    return options


def _tls(who: NatsAccess) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=who.tls_ca or None)
    if who.tls_cert:
        context.load_cert_chain(who.tls_cert, who.tls_key or None)
    return context


def nats_shown(urls: str) -> str:
    """URLs without user and password, for people and for logs."""
    return ", ".join(_without_user(url.strip()) for url in urls.split(","))


def _without_user(url: str) -> str:
    parts = urlsplit(url if "://" in url else f"nats://{url}")
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
