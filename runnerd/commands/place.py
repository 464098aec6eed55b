"""Which daemon a command speaks to: the one that is named, the one that runs on this machine, or one of its own."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from tempfile import TemporaryDirectory

import msgspec
import typer
from msgspec import Struct

from ..client import Client, connect
from ..config import Config, load_config
from ..errors import IngressError, RunnerdError, Saturated
from ..plugins import Plugins
from .access import Place

_OWN_LISTEN = "127.0.0.1:0"


def place_of(config: Config) -> Place:
    """Where the configuration has its NATS ingress."""
    nats = config.settings.ingress.get("nats")
    return Place() if nats is None else msgspec.convert(msgspec.to_builtins(nats), Place)


class Setup(Struct, frozen=True, kw_only=True):
    """What a daemon of our own is made of."""

    plugins: Plugins
    lang: str
    """The only language that it runs."""
    file: str
    flags: Sequence[str]


@asynccontextmanager
async def client_at(place: Place, tenant: str, setup: Setup) -> AsyncIterator[Client]:
    """A client of a daemon at `place`; where nothing listens there, and nobody named a server, of a daemon of our own.

    Raises IngressError where the server can't be reached, RunnerdError where it has no daemon.
    """
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        try:
            client = await enter(connect(tenant=tenant, **place.access()))
        except IngressError as error:
            if place.url:
                raise IngressError(f"{error}: start a daemon there with `runnerd serve`, or name another server") from None
            typer.echo(f"runnerd: nothing runs at {place.address}: this job gets a daemon of its own", err=True)
            place = await enter(_own_daemon(place, setup))
            client = await enter(connect(tenant=tenant, **place.access()))
        try:
            await client.languages()
        except Saturated:
            raise RunnerdError(
                f"{place.address}: a NATS server is there, but no daemon of runnerd: start one with `runnerd serve`"
            ) from None
        yield client


@asynccontextmanager
async def _own_daemon(place: Place, setup: Setup) -> AsyncIterator[Place]:
    """A daemon with an embedded server on a free port, which runs one language and leaves nothing behind."""
    from ..daemon import open_daemon

    with TemporaryDirectory(prefix="runnerd-run-") as directory:
        settings = load_config(setup.plugins, file=setup.file, flags=[*setup.flags, *_own_flags(directory)]).settings
        settings = msgspec.structs.replace(settings, ingress={"nats": settings.ingress["nats"]})
        async with open_daemon(settings, _only(setup.lang, setup.plugins)) as daemon:
            yield msgspec.structs.replace(place, url=daemon.addresses["nats"])


def _own_flags(directory: str) -> Sequence[str]:
    own: Mapping[str, str] = {
        "state_dir": directory,
        "ingress.nats.enabled": "true",
        "ingress.nats.listen": _OWN_LISTEN,
        "ingress.nats.jetstream.streams": "off",
        "scheduler.slots": "1",
        "pool.enabled": "false",
    }
    return [f"{name}={value}" for name, value in own.items()]


def _only(lang: str, plugins: Plugins) -> Plugins:
    """These plugins with one language, so that no other's tool chain is looked for; all of them where it is not known."""
    code = plugins.aliases.get(lang, lang)
    if code not in plugins.languages:
        return plugins
    return msgspec.structs.replace(plugins, languages={code: plugins.languages[code]})
