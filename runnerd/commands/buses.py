"""Which bus a job is submitted to and asked about on: the one that is named, or the one that the configuration has."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import Struct

from ..client import Client, Patience, connect, connect_jetstream, connect_rabbitmq
from ..errors import IngressError, RunnerdError
from .access import Place, tls_context

Kind = Literal["nats", "rabbitmq"]
_SCHEMES: dict[str, Kind] = {"nats": "nats", "tls": "nats", "ws": "nats", "wss": "nats", "amqp": "rabbitmq", "amqps": "rabbitmq"}


Opening = AbstractAsyncContextManager[Client]


class Streams(Struct, frozen=True, kw_only=True):
    """What `[ingress.nats.jetstream]` says that a client has to know."""

    stream_prefix: str = "RD_"
    domain: str = ""
    classes: tuple[str, ...] = ()


class NatsBus(Place, frozen=True, kw_only=True):
    """NATS: durable jobs on JetStream, and daemons that can be asked directly."""

    kind: Kind = "nats"
    inbox: str = ""
    jetstream: Streams = Streams()

    @property
    def classes(self) -> tuple[str, ...]:
        """The priority classes that are served, as far as is known."""
        return self.jetstream.classes

    def open(self, tenant: str, patience: Patience, *, direct: bool = False, cls: str = "", events: bool = False) -> Opening:  # noqa: ARG002 - a submission's own
        """A client; `direct` of daemons, without the streams. Raises IngressError."""
        given = {**self.access(), "tenant": tenant, "inbox_prefix": self.inbox, "patience": patience}
        if direct:
            return connect(**given)
        return connect_jetstream(**given, cls=cls or "std", stream_prefix=self.jetstream.stream_prefix, domain=self.jetstream.domain)


class RabbitBus(Struct, frozen=True, kw_only=True):
    """RabbitMQ. The fields' names are those of `[ingress.rabbitmq]`."""

    kind: Kind = "rabbitmq"
    url: str = "amqp://127.0.0.1:5672"
    user: str = ""
    password: str = ""
    password_file: str = ""
    auth: str = "plain"
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    vhost: str = ""
    prefix: str = "rd"
    classes: tuple[str, ...] = ()

    def open(self, tenant: str, patience: Patience, *, direct: bool = False, cls: str = "", events: bool = False) -> Opening:
        """A client; `events`: output of its jobs goes to the exchange of events, for whoever listens. Raises RunnerdError."""
        if direct:
            raise RunnerdError("--direct: RabbitMQ keeps every job until it has a result: leave it out")
        headers = {"rd-output": "events"} if events else {}
        return connect_rabbitmq(**self.access(), tenant=tenant, cls=cls or "std", headers=headers, patience=patience)

    def access(self) -> dict[str, Any]:
        """Options of the connect that say where, and who we are. Raises IngressError."""
        tls = tls_context("ingress.rabbitmq", self.tls_ca, self.tls_cert, self.tls_key) if "amqps:" in self.url else None
        return {"url": ",".join(self._address(each.strip()) for each in self.url.split(",")), "tls": tls, "prefix": self.prefix}

    def _address(self, url: str) -> str:
        """One broker's URL, with all that the other settings say. Raises IngressError."""
        parts = urlsplit(url)
        user = quote(self.user, safe="") or parts.username
        password = quote(self._secret(), safe="") or parts.password
        if not parts.hostname or _SCHEMES.get(parts.scheme) != self.kind:
            raise IngressError(f"{parts.hostname or 'the URL'}: write it as amqp://host:5672/vhost or amqps://host:5671/vhost")
        host = parts.netloc.rpartition("@")[2]
        who = f"{user}:{password or ''}@" if user else ""
        vhost = quote(self.vhost, safe="") or parts.path.removeprefix("/")
        query = "&".join(filter(None, (parts.query, f"auth={self.auth}" if self.auth != "plain" else "")))
        return f"{parts.scheme}://{who}{host}/{vhost}" + (f"?{query}" if query else "")

    def _secret(self) -> str:
        if not self.password_file:
            return self.password
        try:
            return Path(self.password_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise IngressError(f"ingress.rabbitmq.password_file: {self.password_file} can't be read: {reason}") from None


Bus = NatsBus | RabbitBus


def bus_of(*, server: str, kind: str, inbox: str, file: str, flags: Sequence[str]) -> Bus:
    """The bus at `server`, else the configured one of this kind, else the configured one. Raises RunnerdError, naming what to write.

    Of several, RabbitMQ is taken only where NATS has no URL: it is then the embedded one, which nobody has asked for.
    """
    if kind and kind not in _SCHEMES.values():
        raise RunnerdError(f"--bus {kind}: is not known: use nats or rabbitmq")
    if server:
        return _named(server, kind, inbox)
    from ..config import load_config
    from ..plugins import find_plugins

    ingresses = load_config(find_plugins(), file=file, flags=flags).settings.ingress
    named = bool(getattr(ingresses.get("nats"), "url", ""))
    order = [kind] if kind else ["nats", "rabbitmq"] if named else ["rabbitmq", "nats"]
    found = next((each for each in order if each in ingresses), None)
    if found is None:
        raise RunnerdError(
            f"no bus: the configuration has no ingress of kind {' or '.join(order)}: name a server with --server nats://… or amqp://…"
        )
    given = msgspec.to_builtins(ingresses[found])
    if found == "rabbitmq":
        return msgspec.convert(given, RabbitBus)
    return msgspec.structs.replace(msgspec.convert(given, NatsBus), inbox=inbox)


def _named(server: str, kind: str, inbox: str) -> Bus:
    scheme = server.partition("://")[0] if "://" in server else "nats"
    found = _SCHEMES.get(scheme)
    if found is None:
        raise RunnerdError(f"--server: {scheme}:// is no bus: write nats://host:4222 or amqp://host:5672/vhost")
    if kind not in ("", found):
        raise RunnerdError(f"--bus {kind}: --server names a server of {found}: leave one of them out")
    return NatsBus(url=server, inbox=inbox) if found == "nats" else RabbitBus(url=server)


@asynccontextmanager
async def reached(bus: Bus, opening: Opening) -> AsyncIterator[Client]:
    """A client of the bus, while the block is open. Raises IngressError, which says what to do where it can't be reached."""
    fix = "start a daemon there with `runnerd serve`" if bus.kind == "nats" else "start the broker"
    async with AsyncExitStack() as stack:
        try:
            client = await stack.enter_async_context(opening)
        except IngressError as error:
            raise IngressError(f"{error}: {fix}, or name another bus with --server") from None
        yield client
