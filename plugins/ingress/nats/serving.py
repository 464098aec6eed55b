"""What this ingress does while it is open: subscribes, and at the end drains in the right order."""

import asyncio
import os
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
from msgspec import structs

from runnerd import Counters, Services, new_id

from .bus import Bus
from .connection import Route
from .control import Control
from .discovery import Discovery
from .endpoint import Endpoint
from .group import Group
from .info import Info
from .input import Input
from .jetstream.part import JetStreamPart, wanted
from .links import bus_of
from .room import Room
from .run import Run, RunBounds
from .slots import slots
from .tasks import task_group

if TYPE_CHECKING:
    from . import Nats


@asynccontextmanager
async def serving(nats: "Nats", url: str, services: Services, counters: Counters) -> AsyncGenerator[None]:
    """Take jobs from the server at `url` while the block is open. Raises IngressError.

    Leaving: no more jobs are taken, then those in hand end and are answered, then the connections close. Questions are
    answered to the last.
    """
    async with bus_of(nats, url, counters) as bus, task_group() as tasks:
        parts = _Parts(nats, services, bus, tasks)
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

    def __init__(self, nats: "Nats", services: Services, bus: Bus, tasks: asyncio.TaskGroup) -> None:
        self._nats = nats
        self._services = services
        self._bus = bus
        self._tasks = tasks
        self._room = Room(nats.prefetch)
        self._asked = {verb: self._endpoint(f"ctl-{verb}", f"ctl.*.*.{verb}") for verb in ("status", "cancel")}
        self._submitted = self._endpoint("run", "run.*.*")
        self._kept = self._endpoint("job", "job.*.*.*")
        self._durable: JetStreamPart | None = None
        self._informed = self._endpoint("info", "info.*")
        bounds = RunBounds(body_bytes=nats.body_bytes, stream_pending_bytes=nats.stream_pending_bytes, retry_after_ms=nats.retry_after_ms)
        self._run = Run(bus, services, self._room, tasks, endpoint=self._submitted, bounds=bounds)
        languages = sorted(services.languages) if nats.exact else ("*",)
        routes = [Route(subject=subject, queue=nats.queue, receive=self._run.receive) for subject in bus.subjects.run(languages)]
        self._group = Group(bus.main, routes, self._room, services)

    async def start(self) -> list[asyncio.Task[None]]:
        """Subscribe to everything, jobs last; returns the tasks that stay. Raises IngressError."""
        make = await wanted(self._nats, self._bus)
        if make is not None:
            self._durable = JetStreamPart(self._nats, self._bus, self._services, self._tasks, self._kept, make=make)
        for route in self._routes():
            await self._bus.main.route(route)
        self._run.on_change = self._group.wake
        self._bus.main.on_up = self._up
        durable = await self._durable.start() if self._durable else []
        await self._group.step()
        await self._bus.main.flush()
        return [self._tasks.create_task(self._group.keep()), self._tasks.create_task(self._watch()), *durable]

    async def _watch(self) -> None:
        """Wake those who ask for jobs with every change in the daemon, for ever."""
        while True:
            await self._services.changed()
            self._group.wake()
            if self._durable:
                self._durable.wake()

    def _up(self) -> None:
        self._group.wake()
        if self._durable:
            self._durable.reconnected()

    def _routes(self) -> list[Route]:
        nats, subjects = self._nats, self._bus.subjects
        control = Control(
            self._bus,
            self._services,
            self._tasks,
            endpoints=self._asked,
            queued=self._durable.queued if self._durable else None,
            most=nats.questions,
            retry_after_ms=nats.retry_after_ms,
        )
        said = Input(
            self._bus,
            self._services,
            self._tasks,
            most=nats.questions,
            most_bytes=nats.waiting_bytes,
            retry_after_ms=nats.retry_after_ms,
        )
        info = Info(self._bus, self._services, endpoint=self._informed, body_bytes=nats.body_bytes)
        discovery = Discovery(
            self._bus,
            self._services,
            instance=new_id(),
            endpoints=[self._submitted, *self._asked.values(), self._informed],
            state=self._state,
            data=self._data,
            metadata=self._durable.metadata() if self._durable else {},
        )
        return [
            *(Route(subject=subject, queue=nats.queue, receive=control.receive) for subject in subjects.control()),
            *(Route(subject=subject, receive=control.hear) for subject in subjects.casts()),
            *(Route(subject=subject, receive=said.stdin) for subject in subjects.stdin()),
            *(Route(subject=subject, receive=said.answer) for subject in subjects.answers()),
            Route(subject=subjects.info(), queue=nats.queue, receive=info.receive),
            *discovery.routes(),
        ]

    async def drain(self) -> None:
        """Take no more, finish what is in hand, and see that the server has every answer."""
        self._room.closed = True
        if self._durable:
            self._durable.close()
        await self._group.leave()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._run.finish(self._nats.drain_s, self._nats.connect_s))
            if self._durable:
                tasks.create_task(self._durable.finish())
        await self._bus.main.leave_routes()
        if self._durable:
            await self._durable.finish()  # what came on the way out goes back
        await self._bus.streams.flush()
        await self._bus.main.flush()

    def _endpoint(self, name: str, subject: str) -> Endpoint:
        return Endpoint(name, f"{self._nats.prefix}.{subject}", self._nats.queue, {})

    def _state(self) -> str:
        if self._room.closed or self._services.draining():
            return "draining"
        return "full" if self._room.left(self._services.free()) <= 0 else "ready"

    def _data(self) -> dict[str, Any]:
        return {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "in_hand": self._room.in_hand,
            **structs.asdict(slots(self._services)),
            "member": self._group.member,
            "joined": self._group.joined,
            "jobs": dict(self._run.statuses),
            "durable": self._durable.data() if self._durable else None,
            "counts": self._bus.counters.as_dict(),
        }
