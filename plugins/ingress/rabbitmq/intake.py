"""Consumes: per class as many messages as the daemon has slots, until it is to take no more."""

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

from aiormq.abc import AbstractChannel, DeliveredMessage

from runnerd import Counters, Services

from .link import Link, steady
from .log import log
from .topology import Topology

Take = Callable[[DeliveredMessage, str], None]


class Intake:
    """The consumers of one daemon, made again with each generation, and with each growth of the daemon."""

    def __init__(self, topology: Topology, services: Services, counters: Counters, *, prefetch: int, priority: int | None) -> None:
        self._topology = topology
        self._services = services
        self._counters = counters
        self._wanted = prefetch
        self._arguments: dict[str, Any] = {} if priority is None else {"x-priority": priority}
        self._link: Link | None = None
        self._consumers: tuple[AbstractChannel, list[str]] | None = None
        self._changing = asyncio.Lock()
        self._made = 0
        self.prefetch = 0
        """Messages of each class that are delivered ahead of an ack."""
        self.closed = False
        """Whether no more messages are taken, for good."""
        self.take: Take
        """Called with each message and its queue. Never waits."""

    async def begin(self, link: Link) -> None:
        """Consume in a new generation."""
        async with self._changing:
            self._link, self._consumers = link, None
            if not self.closed:
                await self._consume(link)

    async def watch(self) -> None:
        """Follow the daemon, for ever: take more at once when it has more slots, and no more when it stops."""
        while True:
            await self._services.changed()
            if self._services.draining():
                await self.stop()
            elif self._slots() > self.prefetch:
                await self._widen()

    async def stop(self) -> None:
        """Take no more. What the broker had sent before it knew is given back by who takes it."""
        self.closed = True
        async with self._changing:
            await self._cancel(self._consumers)

    def _slots(self) -> int:
        return self._wanted or max(1, self.prefetch, self._services.free())

    async def _widen(self) -> None:
        """What a consumer is sent ahead can't be changed: a new one takes its place."""
        async with self._changing:
            link, older = self._link, self._consumers
            if self.closed or link is None or link.over.is_set():
                return
            try:
                await self._consume(link)
            except Exception as error:  # noqa: BLE001 - a lost connection is told by any error there is; the next generation does it
                link.end(f"consumers could not be made: {error}")
                return
            await self._cancel(older)  # the channel stays, for the acks of what came on it

    async def _consume(self, link: Link) -> None:
        prefetch = self._slots()
        channel = await steady(link.consumer_channel(prefetch))
        self._made += 1
        tags = [f"runnerd-{socket.gethostname()}-{os.getpid()}-{cls}-{self._made}" for cls in self._topology.classes]
        for cls, tag in zip(self._topology.classes, tags, strict=True):
            queue = self._topology.queue_of(cls)

            async def receive(message: DeliveredMessage, queue: str = queue) -> None:
                try:
                    self.take(message, queue)
                except Exception as defect:
                    log.exception("a message could not be taken", queue=queue)
                    link.end(f"a defect of runnerd: {type(defect).__name__}")  # or the message would stay in hand for ever
                    raise

            await steady(channel.basic_consume(queue, receive, consumer_tag=tag, arguments=self._arguments))
        self._consumers, self.prefetch = (channel, tags), prefetch

    async def _cancel(self, consumers: tuple[AbstractChannel, list[str]] | None) -> None:
        channel, tags = consumers or (None, [])
        while channel is not None and not channel.is_closed and tags:
            try:
                await steady(channel.basic_cancel(tags.pop()))
            except Exception as error:  # noqa: BLE001 - see `_widen`; a consumer that can't be cancelled is gone
                self._counters.count("cancels_lost", cause=str(error))
                return
