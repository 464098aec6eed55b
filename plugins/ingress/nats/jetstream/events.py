"""Events of a job that asks for durable output: each is in the stream before the next is sent."""

import asyncio
import random

from runnerd import Counters, new_id

from ..connection import Connection, NoAnswer
from .api import Api, ApiError

_PAUSE_S, _PAUSE_MOST_S = 0.2, 5.0


class Events:
    """Stores the events of one run of a job."""

    def __init__(self, api: Api, connection: Connection, counters: Counters, *, patience_s: float) -> None:
        """`connection`: that of `api`. `patience_s`: how long a server that is there, and stores nothing, is asked again."""
        self._api = api
        self._connection = connection
        self._counters = counters
        self._patience_s = patience_s
        self._run = new_id()
        self._lost = False
        """Whether the last one was lost: then the next is tried once, so that the result does not wait for each of them."""

    async def keep(self, subject: str, body: bytes, headers: dict[str, str]) -> bool:
        """Store an event; whether it is stored. Waits while the bus is away, as long as it takes."""
        # one name per event: a copy whose ack was lost is known again, and what another run of the job sends is not taken for it
        named = headers | {"Nats-Msg-Id": f"{headers['Rd-Job-Id']}.{self._run}.{headers['Rd-Seq']}"}
        since: float | None = None
        pause_s = _PAUSE_S
        while not await self._stored(subject, body, named):
            now = asyncio.get_running_loop().time()
            if not self._connection.client.is_connected:
                since = None
            else:
                since = now if since is None else since
                if self._lost or now - since >= self._patience_s:
                    self._lost = True
                    return False
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads many daemons, guards nothing
            pause_s = min(pause_s * 2, _PAUSE_MOST_S)
        self._lost = False
        return True

    async def _stored(self, subject: str, body: bytes, headers: dict[str, str]) -> bool:
        try:
            await self._api.publish(subject, body, headers)
        except (NoAnswer, ApiError) as error:
            self._counters.count("publishes_failed", cause=str(error))
            return False
        return True
