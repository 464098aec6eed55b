"""Where a NATS server is and who we are to it, as the settings of its ingress say; TLS for any bus."""

import ssl
from typing import Any

from msgspec import Struct

from ..client import URL
from ..errors import IngressError


class Place(Struct, frozen=True, kw_only=True):
    """A NATS server, and how to speak to the daemons there. The fields' names are those of `[ingress.nats]`."""

    url: str = ""
    listen: str = URL.removeprefix("nats://")
    user: str = ""
    password: str = ""
    token: str = ""
    nkey_seed_file: str = ""
    creds_file: str = ""
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    prefix: str = "rd.v1"

    @property
    def address(self) -> str:
        """The server's URL: the one that is configured, else that of an embedded server."""
        return self.url or f"nats://{self.listen}"

    def access(self) -> dict[str, Any]:
        """Options of the connects that say where, and who we are. Raises IngressError."""
        names = ("user", "password", "token", "nkey_seed_file", "creds_file", "prefix")
        tls = tls_context("ingress.nats", self.tls_ca, self.tls_cert, self.tls_key) if self.tls_ca or self.tls_cert else None
        return {"url": self.address, "tls": tls, **{name: getattr(self, name) for name in names}}


def tls_context(table: str, ca: str, cert: str, key: str) -> ssl.SSLContext:
    """What a connection with TLS needs; `table` is where the settings stand. Raises IngressError."""
    try:
        context = ssl.create_default_context(cafile=ca or None)
        if cert:
            context.load_cert_chain(cert, key or None)
    except OSError as error:  # ssl.SSLError is one
        raise IngressError(f"{table}.tls_ca, tls_cert, tls_key: can't be used: {error}") from None
    return context
