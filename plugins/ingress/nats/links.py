"""The two connections to the bus, with what this daemon shows the server."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from runnerd import Counters, IngressError, nats_access, nats_shown

from .bus import Bus
from .connection import Bounds, Connection
from .subjects import Subjects

if TYPE_CHECKING:
    from . import Nats


@asynccontextmanager
async def bus_of(nats: "Nats", url: str, counters: Counters) -> AsyncGenerator[Bus]:
    """Connected to the server at `url` while the block is open. Raises IngressError, naming the server and the cause."""
    bounds = Bounds(
        connect_s=nats.connect_s,
        rebuild_s=nats.rebuild_s,
        patience_s=nats.patience_s,
        pending_bytes=nats.pending_bytes,
        waiting_messages=nats.waiting_messages,
        waiting_bytes=nats.waiting_bytes,
    )
    who = nats_access(nats, "ingress.nats", IngressError)
    bus = Bus(
        main=Connection(url, "bus", shown=nats_shown(url), options=who, bounds=bounds, counters=counters),
        streams=Connection(url, "streams", shown=nats_shown(url), options=who, bounds=bounds, counters=counters),
        subjects=Subjects(prefix=nats.prefix, tenants=nats.tenants, reply_prefixes=nats.reply_prefixes),
        counters=counters,
    )
    async with bus.main.open(), bus.streams.open():
        yield bus
