"""Durable jobs as one part of the ingress: opened where the server has what it takes, and drained before it closes."""

import asyncio
from typing import TYPE_CHECKING, Any

from runnerd import IngressError, Services

from ..bus import Bus
from ..endpoint import Endpoint
from ..log import log
from ..room import Room
from .api import Api
from .asking import Feed
from .bodies import Bodies
from .durable import Durable, DurableBounds
from .events import Events
from .hands import Hands
from .outcome import Outcomes
from .pull import PullBounds, Puller
from .queued import Queued
from .setup import Findings, Setup
from .topology import JOBS, Topology

if TYPE_CHECKING:
    from .. import Nats

_LOOK_S = 0.1
"""How old may be what is known of warm sandboxes: it decides only which of several daemons is asked first."""


class JetStreamPart:
    """Pulls durable jobs and runs them."""

    def __init__(self, nats: "Nats", bus: Bus, services: Services, tasks: asyncio.TaskGroup, endpoint: Endpoint, *, make: bool) -> None:
        settings = nats.jetstream
        self._nats = nats
        self._bus = bus
        self._services = services
        self._tasks = tasks
        self._make = make
        api, topology = tools(nats, bus)
        self.stream = topology.stream(JOBS)
        self._setup = Setup(api, topology)
        self._room = Room(settings.ahead)
        self._hands = Hands(bus.main, bus.counters, answer_s=settings.answer_s)
        self._outcomes = Outcomes(bus, services, api, self._hands, topology)
        bounds = DurableBounds(
            body_bytes=nats.body_bytes,
            parts_bytes=settings.body_bytes,
            stream_pending_bytes=nats.stream_pending_bytes,
            in_hand=settings.in_hand,
            exact=nats.exact,
            again_s=settings.again_s,
            again_most_s=settings.again_most_s,
        )
        self._bodies = Bodies(api, topology, bus.counters, settings.bodies_bytes)
        self._durable = Durable(
            bus,
            services,
            self._outcomes,
            self._hands,
            self._room,
            self._bodies,
            tasks,
            events=self._events,
            endpoint=endpoint,
            bounds=bounds,
        )
        self._feeds = [Feed(consumer) for consumer in topology.consumers()]
        self._puller = Puller(
            bus.main,
            api,
            self._setup,
            self._feeds,
            room=self._left,
            receive=self._durable.receive,
            bounds=PullBounds(reserved=settings.reserved_slots, make=make),
            counters=bus.counters,
        )
        self._puller.warm = self._warm
        self._is_warm, self._look_at = False, 0.0
        self._durable.on_change = self._puller.wake
        self._durable.on_failure = self._puller.rest
        self.queued = Queued(api, topology)
        """Where jobs are that no daemon has seen yet."""
        self.wake = self._puller.wake
        self.reconnected = self._puller.reconnected

    async def start(self) -> list[asyncio.Task[None]]:
        """See that everything is there, and begin to ask; returns the tasks that stay. Raises IngressError, naming the fix."""
        findings = await self._setup.look(make=self._make)
        told(findings)
        for feed in self._feeds:
            feed.group = findings.group(feed.consumer.name)
        ack_wait_s = min(findings.ack_wait_s, self._nats.jetstream.ack_wait_s)
        await self._bus.main.route(self._puller.route())
        return [self._tasks.create_task(work) for work in (self._puller.keep(), self._hands.renew(ack_wait_s))]

    def close(self) -> None:
        """Ask for no more, and take no more."""
        self._room.closed = True

    async def finish(self) -> None:
        """Finish what is in hand; what takes longer than the grace is given back."""
        await self._durable.finish(self._nats.drain_s, self._nats.connect_s)

    def metadata(self) -> dict[str, str]:
        """What discovery says of durable jobs: there is no endpoint of theirs, as the stream takes them, and answers."""
        settings = self._nats.jetstream
        subject = f"{self._nats.prefix}.job.<tenant>.<class>.<lang>[.<job>]"
        return {"stream": self.stream, "job": subject, "classes": ",".join(settings.classes)}

    def data(self) -> dict[str, Any]:
        """What `nats micro stats` shows of it."""
        return {"in_hand": len(self._hands), "pulls": self._puller.asked, "jobs": dict(self._outcomes.statuses)}

    def _events(self) -> Events:
        """What stores the events of one run of a job, on the connection of output: its floods delay nobody's answer."""
        settings, streams = self._nats.jetstream, self._bus.streams
        api = Api(streams, settings.domain, timeout_s=self._nats.connect_s, store_s=settings.answer_s)
        return Events(api, streams, self._bus.counters, patience_s=self._nats.patience_s)

    def _left(self) -> int:
        settings = self._nats.jetstream
        if self._room.closed or self._services.draining():
            return 0
        return min(self._room.startable(self._services.free() - self._bodies.coming) + settings.ahead, settings.in_hand - len(self._hands))

    def _warm(self) -> bool:
        """Whether a sandbox stands ready: looked at now and then, as all that the daemon says of itself is put together for it."""
        now = asyncio.get_running_loop().time()
        if now >= self._look_at:
            self._look_at = now + _LOOK_S
            self._is_warm = any(pool.get("warm") for pool in self._services.health().get("pools", {}).values())
        return self._is_warm


def tools(nats: "Nats", bus: Bus) -> tuple[Api, Topology]:
    """JetStream's requests, and what there should be on the server that we are connected to."""
    settings = nats.jetstream
    version = bus.main.client.connected_server_version
    topology = Topology(prefix=nats.prefix, settings=settings, version=(version.major, version.minor))
    return Api(bus.main, settings.domain, timeout_s=nats.connect_s, store_s=settings.answer_s), topology


async def wanted(nats: "Nats", bus: Bus) -> bool | None:
    """Whether to take durable jobs from this server, and to make what is missing there: None, False (verify) or True (ensure)."""
    mode = nats.jetstream.streams
    if mode == "auto" and not nats.url:
        mode = "ensure"
    if mode == "auto":
        api, topology = tools(nats, bus)
        mode = "verify" if await Setup(api, topology).there() else "off"
        if mode == "off":
            log.info("no durable jobs: the server has no stream for them", fix="runnerd bus init", stream=topology.stream(JOBS))
    return None if mode == "off" else mode == "ensure"


def told(findings: Findings) -> None:
    """Log what was made and what differs. Raises IngressError where something is missing."""
    if findings.made:
        log.info("made on the bus what was missing", what=", ".join(findings.made))
    for difference in findings.different:
        log.warning("differs from the settings, and stays as it is", what=difference)
    if findings.missing:
        raise IngressError(
            f"JetStream: there is no {', no '.join(findings.missing)}: run `runnerd bus init`, "
            'or set [ingress.nats.jetstream] streams = "ensure", or "off" for no durable jobs'
        )
