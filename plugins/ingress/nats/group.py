"""Membership in the queue group: this daemon is in it while it has room, so that others, or nobody, get what it can't take."""

import asyncio
from collections.abc import Sequence
from typing import Any

import nats.errors
from nats.aio.client import Client

from runnerd import Services

from .connection import Connection, Route
from .room import Room

_LEAVE_S = 5.0
"""How long leaving may take. It is one round trip to the server, and what had been sent before it."""


class Group:
    """Joins and leaves as room comes and goes."""

    def __init__(self, connection: Connection, routes: Sequence[Route], room: Room, services: Services) -> None:
        self._connection = connection
        self._routes = routes
        self._room = room
        self._services = services
        self._client: Client | None = None
        self._subscriptions: list[Any] = []
        self._wake = asyncio.Event()
        self.joined = 0
        """How often it was joined."""

    def __repr__(self) -> str:
        return f"<Group {'member' if self.member else 'outside'}, {self._room!r}>"

    @property
    def member(self) -> bool:
        """Whether jobs may come."""
        return bool(self._subscriptions) and self._client is self._connection.client

    def wake(self) -> None:
        """Look again whether to be in the group: room, daemon or connection have changed."""
        self._wake.set()

    def full(self) -> bool:
        """Whether the group should be left."""
        return not self._room.wants_more(self._services.free(), member=True)

    async def keep(self) -> None:
        """Join and leave, for ever."""
        while True:
            self._wake.clear()
            await self.step()
            await self._wake.wait()

    async def watch(self) -> None:
        """Wake `keep` with every change in the daemon, for ever."""
        while True:
            await self._services.changed()
            self._wake.set()

    async def step(self) -> None:
        """Join or leave, where that is due."""
        client = self._connection.client
        if client is not self._client:
            self._client, self._subscriptions = client, []  # those of the old client went with it
        if not client.is_connected:
            return  # woken by the connection when it is up
        wanted = not self._services.draining() and self._room.wants_more(self._services.free(), member=self.member)
        if wanted and not self.member:
            await self._join()
        elif self.member and not wanted:
            await self.leave()
            self._wake.set()  # room may have come while leaving took its round trip

    async def _join(self) -> None:
        try:
            for route in self._routes:
                self._subscriptions.append(await self._connection.subscribe(route))
        except nats.errors.Error:
            return  # the client was closed meanwhile; its successor wakes us
        self.joined += 1

    async def leave(self) -> None:
        """Leave. What the server had sent before it knew still comes to the receiver."""
        subscriptions, self._subscriptions = self._subscriptions, []
        client = self._client
        if client is None or client.is_closed:
            return
        try:
            async with asyncio.timeout(_LEAVE_S):
                await asyncio.gather(*(subscription.drain() for subscription in subscriptions))
        except (nats.errors.Error, OSError, TimeoutError):
            # The connection was lost in the middle, and the library has subscribed again what can't be left a second time.
            # Only a new client is without it.
            await client.close()
