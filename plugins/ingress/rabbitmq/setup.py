"""Sees that exchanges and queues are there: looked at, or made where they are missing; never changed."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Literal

from aiormq.exceptions import ChannelAccessRefused, ChannelClosed, ChannelLockedResource, ChannelNotFoundEntity, ChannelPreconditionFailed

from runnerd import IngressError, Prepared

from .credentials import places
from .link import Link, open_link, said
from .log import log
from .topology import Exchange, Queue, Topology

if TYPE_CHECKING:
    from . import RabbitMq

Mode = Literal["verify", "ensure", "none"]
Declare = Callable[..., Awaitable[object]]


async def prepared(settings: "RabbitMq", *, make: bool) -> Prepared:
    """What is on the broker, and with `make` what was made. Raises IngressError."""
    topology = Topology(prefix=settings.prefix, classes=settings.classes, delays_s=settings.retry_delays_s)
    async with open_link(places(settings), connect_s=settings.connect_s) as link:
        setup = Setup(link, topology)
        await setup.look(make=make)
    return Prepared(made=tuple(setup.made), missing=tuple(setup.missing), different=tuple(setup.different))


class Setup:
    """Declares each thing on a channel of its own: the broker closes the channel with what it does not like."""

    def __init__(self, link: Link, topology: Topology) -> None:
        self._link = link
        self._topology = topology
        self.made: list[str] = []
        self.missing: list[str] = []
        self.different: list[str] = []

    async def begin(self, mode: Mode) -> None:
        """At the start of a generation. Raises IngressError where something is missing, or may not be used."""
        if mode == "none":
            return
        await self.look(make=mode == "ensure")
        for made in self.made:
            log.info("made", what=made)
        for difference in self.different:
            log.warning("differs from the settings, and stays as it is", what=difference)
        if self.missing:
            raise IngressError(
                f"RabbitMQ: there is no {', no '.join(self.missing)}: run `runnerd bus init`, "
                'or set [ingress.rabbitmq] topology = "ensure", or import deploy/rabbitmq/definitions.json'
            )

    async def look(self, *, make: bool) -> None:
        """Look at everything, and with `make` make what is missing. Raises IngressError."""
        for exchange in self._topology.exchanges():
            await self._exchange(exchange, make=make)
        made_queues = [queue for queue in self._topology.queues() if await self._queue(queue, make=make)]
        if make:
            for queue in made_queues:
                await self._bind(queue)

    async def _exchange(self, exchange: Exchange, *, make: bool) -> None:
        async def declare(*, passive: bool) -> None:
            async with self._link.apart(consuming=True) as channel:
                await channel.declare_exchange(exchange.name, exchange.type, durable=True, passive=passive)

        await self._declare(f"exchange {exchange.name}", declare, make=make)

    async def _queue(self, queue: Queue, *, make: bool) -> bool:
        async def declare(*, passive: bool) -> None:
            async with self._link.apart(consuming=True) as channel:
                await channel.declare_queue(queue.name, durable=True, passive=passive, arguments=dict(queue.arguments))

        return await self._declare(f"queue {queue.name}", declare, make=make)

    async def _declare(self, what: str, declare: Declare, *, make: bool) -> bool:
        """Whether it is there as it should be. An active declaration changes nothing that is there, but tells what differs."""
        try:
            await declare(passive=True)
        except ChannelNotFoundEntity:
            if not make:
                self.missing.append(what)
                return False
            await self._make(what, declare)
            return True
        except ChannelClosed as error:
            raise IngressError(f"RabbitMQ: {what}: {said(error)}") from None
        try:
            await declare(passive=False)
        except ChannelPreconditionFailed as error:
            self.different.append(f"{what}: {said(error)}")
            return False
        except (ChannelAccessRefused, ChannelLockedResource):
            return False  # it is there, and whoever may not configure it can't compare it
        return True

    async def _make(self, what: str, declare: Declare) -> None:
        try:
            await declare(passive=False)
        except ChannelClosed as error:
            raise IngressError(f"RabbitMQ: {what} can't be made: {said(error)}") from None
        self.made.append(what)

    async def _bind(self, queue: Queue) -> None:
        """Binding again what is bound changes nothing."""
        try:
            async with self._link.apart(consuming=True) as channel:
                raw = await channel.get_underlay_channel()
                for exchange, key, arguments in queue.bindings:
                    await raw.queue_bind(queue.name, exchange, key, arguments=dict(arguments))
        except ChannelClosed as error:
            raise IngressError(f"RabbitMQ: queue {queue.name} can't be bound: {said(error)}") from None
