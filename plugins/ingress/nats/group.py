"""Membership in the queue group: this daemon is in it while it has room, so that others, or nobody, get what it can't take."""

import asyncio
from collections.abc import Sequence

import nats.errors
from nats.aio.client import Client
from nats.aio.subscription import Subscription

from runnerd import Services

from .connection import Connection, Route
from .room import Room


class Group:
    """Joins and leaves as room comes and goes."""

    def __init__(self, connection: Connection, routes: Sequence[Route], room: Room, services: Services) -> None:
        self._connection = connection
        self._routes = routes
        self._room = room
        self._services = services
        self._client: Client | None = None
        self._subscriptions: list[Subscription] = []
        self._wake = asyncio.Event()
        self._changing = asyncio.Lock()
        self.joined = 0
        """How often it was joined."""

    def __repr__(self) -> str:
        return f"<Group {'member' if self.member else 'outside'}, {self._room!r}>"

    @property
    def member(self) -> bool:
        """Whether jobs may come."""
        return bool(self._subscriptions) and self._client is self._connection.client

    def wake(self) -> None:
        """Room, daemon or connection have changed: join or leave, if that is due. Costs next to nothing if not."""
        if self.member != self._wanted():
            self._wake.set()

    def _wanted(self) -> bool:
        return not self._services.draining() and self._room.wants_more(self._services.free(), member=self.member)

    async def keep(self) -> None:
        """Join and leave, for ever."""
        while True:
            self._wake.clear()
            await self.step()
            await self._wake.wait()

    async def step(self) -> None:
        """Join or leave, where that is due."""
        async with self._changing:
            client = self._connection.client
            if client is not self._client:
                self._client, self._subscriptions = client, []  # those of the old client went with it
            if not client.is_connected:
                return  # woken by the connection when it is up
            if not self.member and self._wanted():
                await self._join()
            elif self.member and not self._wanted():
                await self._leave()
                self._wake.set()  # room may have come while leaving took its round trip

    async def leave(self) -> None:
        """Leave, whatever room there is."""
        async with self._changing:
            await self._leave()

    async def _join(self) -> None:
        try:
            for route in self._routes:
                self._subscriptions.append(await self._connection.subscribe(route))
        except nats.errors.Error:
            return  # the client was closed meanwhile; its successor wakes us
        self.joined += 1

    async def _leave(self) -> None:
        """Unsubscribe; messages that were on their way still come, and are taken or refused by the room that there is then."""
        subscriptions, self._subscriptions = self._subscriptions, []
        client = self._client
        if client is None or client.is_closed or await self._connection.leave(subscriptions):
            return
        await client.close()  # only a new client is without what can't be left a second time
