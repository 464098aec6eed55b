"""The broker as the parts of this ingress see it: generations of connections, one after another, and publishing that outlives them."""

import asyncio
import math
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Literal

from aio_pika import Message
from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import DeliveryError, PublishError
from aiormq.exceptions import AMQPChannelError

from runnerd import Counters, IngressError

from .credentials import places
from .link import Link, open_link, said, steady
from .log import log
from .setup import Setup
from .topology import Topology

if TYPE_CHECKING:
    from . import RabbitMq

_PAUSE_S = 0.2

Sent = Literal["sent", "unroutable", "refused"]
"""`unroutable`: there is no such queue. `refused`: the queue is full, or we may not write there, or the message is too large."""


class NotSent(Exception):
    """The broker did not take a message in time."""


class Bus:
    """Keeps a link to the broker, and publishes."""

    def __init__(self, settings: "RabbitMq", topology: Topology, counters: Counters) -> None:
        self.topology = topology
        self.counters = counters
        self.link: Link | None = None
        """The current generation, None while there is none."""
        self.on_link: Callable[[Link], Awaitable[None]]
        """Called with each new generation, before anything is published on it."""
        self._settings = settings
        self._up = asyncio.Event()
        self._sending: set[asyncio.Timeout] = set()
        """How long each message that is being sent may still wait."""
        self._idle = asyncio.Event()
        self._idle.set()
        self._ends = math.inf
        """When nothing is sent any more, on the loop's clock."""

    async def keep(self, opened: "asyncio.Future[None]") -> None:
        """Make generations, for ever. The first one that stands, or why it could not be, is told to `opened`.

        When this is cancelled, nothing waits any more to be sent.
        """
        try:
            await self._generations(opened)
        finally:
            self._end_by(asyncio.get_running_loop().time())

    async def finish(self, grace_s: float) -> None:
        """Wait until all that is being sent is sent, for `grace_s` at most. What could not be is given up."""
        self._end_by(asyncio.get_running_loop().time() + grace_s)
        await self._idle.wait()

    async def _generations(self, opened: "asyncio.Future[None]") -> None:
        loop = asyncio.get_running_loop()
        pause_s = _PAUSE_S
        while True:
            began = loop.time()
            try:
                await self._live(opened)
            except IngressError as error:
                if not opened.done():
                    opened.set_exception(error)
                    return
                self.counters.count("links_failed", cause=str(error))
            if loop.time() - began > self._settings.rebuild_s:
                pause_s = _PAUSE_S
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads many daemons, guards nothing
            pause_s = min(pause_s * 2, self._settings.rebuild_s)

    async def _live(self, opened: "asyncio.Future[None]") -> None:
        """One generation, from its connections to its end. Raises IngressError."""
        settings = self._settings
        async with open_link(places(settings), connect_s=settings.connect_s) as link:
            try:
                async with asyncio.timeout(settings.connect_s):
                    await Setup(link, self.topology).begin(settings.topology)
                    await self.on_link(link)
            except IngressError:
                raise
            except Exception as error:  # noqa: BLE001 - the library raises what it likes; all mean: this generation is none
                raise IngressError(f"RabbitMQ: {said(error) if str(error) else link.reason or said(error)}") from None
            self.link = link
            self._up.set()
            if not opened.done():
                opened.set_result(None)
            try:
                await link.over.wait()
            finally:
                self.link = None
                self._up.clear()
            self.counters.count("links_lost", cause=link.reason)
            log.info("bus lost", cause=link.reason)

    async def publish(
        self, message: Message, key: str, *, exchange: str = "", mandatory: bool, patience_s: float | None = None, often: bool = False
    ) -> Sent:
        """Send what matters, and wait until the broker has it, over as many generations as it takes. Raises NotSent.

        A message that was on its way when a connection was lost is sent again, with the same message id. `often`: to an exchange
        without a channel of its own, where nobody needs to know whether it found a queue.
        """
        loop = asyncio.get_running_loop()
        patience_s = self._settings.patience_s if patience_s is None else patience_s
        patience = asyncio.timeout_at(min(loop.time() + patience_s, self._ends))
        try:
            async with patience:
                self._idle.clear()
                self._sending.add(patience)
                return await self._sent(message, key, exchange, mandatory=mandatory, apart=bool(exchange) and not often)
        except TimeoutError:
            when = "before this daemon stopped" if loop.time() >= self._ends else f"within {patience_s:g} s"
            raise NotSent(f"the broker did not take it {when}") from None
        finally:
            self._sending.discard(patience)
            if not self._sending:
                self._idle.set()

    async def _sent(self, message: Message, key: str, exchange: str, *, mandatory: bool, apart: bool) -> Sent:
        """Send it, over as many generations as it takes."""
        while True:
            link = await self._linked()
            try:
                return await self._send(link, message, key, exchange, mandatory=mandatory, apart=apart)
            except AMQPChannelError as error:
                if apart:
                    self.counters.count("publishes_refused", exchange=exchange, cause=said(error))
                    return "refused"
            except (TimeoutError, TypeError, ValueError):
                raise
            except Exception as error:  # noqa: BLE001 - a lost connection is told by any error there is, a bare one too
                self.counters.count("publishes_repeated", cause=said(error))
                await asyncio.sleep(_PAUSE_S)  # until the loss is known
            apart = True  # by itself, so that it answers for nobody else's fault

    async def offer(self, message: Message, key: str, *, exchange: str = "", patience_s: float) -> bool:
        """Send what may be lost: False where there is no connection, or the broker takes longer than `patience_s`."""
        link = self.link
        if link is None:
            return False
        try:
            async with asyncio.timeout(patience_s):
                await link.unblocked()
                await _publish(await link.streams(), exchange, message, key, mandatory=False)
        except Exception as error:  # noqa: BLE001 - see `publish`; the result has all of the output
            self.counters.count("offers_lost", cause=said(error))
            return False
        return True

    def _end_by(self, when: float) -> None:
        self._ends = min(self._ends, when)
        for patience in (each for each in self._sending if not each.expired()):
            patience.reschedule(min(patience.when() or when, self._ends))

    async def _linked(self) -> Link:
        while True:
            if (link := self.link) is not None and not link.over.is_set():
                return link
            self._up.clear()
            await self._up.wait()

    @staticmethod
    async def _send(link: Link, message: Message, key: str, exchange: str, *, mandatory: bool, apart: bool) -> Sent:
        await link.unblocked()
        try:
            if apart:
                async with link.apart() as channel:
                    await _publish(channel, exchange, message, key, mandatory=mandatory)
            else:
                await _publish(await (link.streams() if exchange else link.replies()), exchange, message, key, mandatory=mandatory)
        except PublishError:
            return "unroutable"
        except DeliveryError:
            return "refused"
        return "sent"


async def _publish(channel: AbstractChannel, exchange: str, message: Message, key: str, *, mandatory: bool) -> None:
    if exchange:
        target = await channel.get_exchange(exchange, ensure=False)
    else:
        target = channel.default_exchange
    await steady(target.publish(message, key, mandatory=mandatory))
