"""What this ingress does while it is open: keeps a link to the broker, consumes, and at the end drains in the right order."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from runnerd import Counters, Services

from .bus import Bus
from .control import Control
from .hands import Hands
from .input import InputBounds
from .intake import Intake
from .link import Link
from .log import log
from .outcome import Outcomes
from .run import Run, RunBounds
from .tasks import task_group
from .topology import Topology

if TYPE_CHECKING:
    from . import RabbitMq


def topology_of(settings: "RabbitMq") -> Topology:
    """What there should be on the broker."""
    return Topology(prefix=settings.prefix, classes=settings.classes, delays_s=settings.retry_delays_s)


@asynccontextmanager
async def serving(settings: "RabbitMq", services: Services) -> AsyncGenerator[None]:
    """Take jobs while the block is open. Raises IngressError.

    Leaving: no more jobs are taken, then those in hand end, are answered and acked, then the connections close.
    """
    async with task_group() as tasks:
        parts = _Parts(settings, services, tasks)
        keepers: list[asyncio.Task[None]] = []
        try:
            keepers = await parts.start()
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await parts.drain()
            for keeper in keepers:
                keeper.cancel()


class _Parts:
    """The parts of an ingress that is open, and the order in which they start and end."""

    def __init__(self, settings: "RabbitMq", services: Services, tasks: asyncio.TaskGroup) -> None:
        self._settings = settings
        self._tasks = tasks
        counters = Counters(log, services.happened)
        self._bus = Bus(settings, topology_of(settings), counters)
        self._bus.on_link = self._begin
        hands = Hands(counters)
        self._intake = Intake(self._bus.topology, services, counters, prefetch=settings.prefetch, priority=settings.consumer_priority)
        outcomes = Outcomes(self._bus, hands, events=settings.events)
        bounds = RunBounds(
            body_bytes=settings.body_bytes,
            message_bytes=settings.message_bytes,
            stall_s=settings.stall_s,
            consumer_timeout_s=settings.consumer_timeout_s,
            reply_prefixes=settings.reply_prefixes,
        )
        self._run = Run(self._bus, services, self._intake, hands, outcomes, tasks, bounds=bounds)
        self._intake.take = self._run.take
        said = InputBounds(
            most=settings.questions,
            most_bytes=settings.said_bytes,
            message_bytes=settings.message_bytes,
            reply_prefixes=settings.reply_prefixes,
        )
        self._control = Control(self._bus, services, tasks, said)

    async def start(self) -> list[asyncio.Task[None]]:
        """Connect and consume; returns the tasks that stay. Raises IngressError."""
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        keeper = self._tasks.create_task(self._bus.keep(opened))
        try:
            await opened
        except BaseException:
            keeper.cancel()
            raise
        return [keeper, *(self._tasks.create_task(work) for work in (self._intake.watch(), self._run.renew()))]

    async def drain(self) -> None:
        """Take no more, finish what is in hand, and give back the rest."""
        await self._intake.stop()
        await self._run.finish(self._settings.drain_s, self._settings.connect_s)
        await self._bus.finish(self._settings.connect_s)  # answers to questions

    async def _begin(self, link: Link) -> None:
        if self._settings.control:
            await self._control.begin(link)
        await self._intake.begin(link)
