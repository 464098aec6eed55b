"""`$SRV` answers, by which `nats micro ls | info | stats | ping` find this daemon (ADR-32)."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from nats.aio.msg import Msg

from runnerd import Services, __version__

from .bus import Bus
from .connection import Route
from .endpoint import Endpoint
from .slots import slots

NAME = "runnerd"


class Discovery:
    """Answers PING, INFO and STATS: to all, by name, and by name and id. Every replica answers: there is no queue group."""

    def __init__(
        self,
        bus: Bus,
        services: Services,
        *,
        instance: str,
        endpoints: Sequence[Endpoint],
        state: Callable[[], str],
        data: Callable[[], dict[str, Any]],
        metadata: Mapping[str, str],
    ) -> None:
        self._bus = bus
        self._services = services
        self._instance = instance
        self._endpoints = endpoints
        self._state = state
        self._data = data
        self._metadata = metadata
        self._started = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        self._answers: dict[str, Callable[[], dict[str, Any]]] = {"PING": self._ping, "INFO": self._info, "STATS": self._stats}

    def routes(self) -> list[Route]:
        """The nine subjects."""
        scopes = ("", f".{NAME}", f".{NAME}.{self._instance}")
        return [Route(subject=f"$SRV.{verb}{scope}", receive=self.receive) for verb in self._answers for scope in scopes]

    async def receive(self, msg: Msg) -> None:
        """Take a question off the bus, and answer it."""
        if not msg.reply or self._bus.forbidden(msg, msg.reply):
            return
        answer = self._answers[msg.subject.split(".")[1]]()
        await self._bus.main.publish(msg.reply, msgspec.json.encode(answer), {})

    def _identity(self, type_: str) -> dict[str, Any]:
        return {
            "type": f"io.nats.micro.v1.{type_}_response",
            "name": NAME,
            "id": self._instance,
            "version": __version__,
            "metadata": {
                "prefix": self._bus.subjects.prefix,
                "langs": ",".join(sorted(self._services.languages)),
                "state": self._state(),
                **slots(self._services).words(),
                "schema": f"{self._bus.subjects.prefix}.info.schema",
                "asyncapi": f"{self._bus.subjects.prefix}.info.asyncapi",
                **self._metadata,
            },
        }

    def _ping(self) -> dict[str, Any]:
        return self._identity("ping")

    def _info(self) -> dict[str, Any]:
        description = "Runs untrusted code as jobs, in isolated sandboxes"
        return self._identity("info") | {"description": description, "endpoints": [each.info() for each in self._endpoints]}

    def _stats(self) -> dict[str, Any]:
        endpoints = [each.stats() for each in self._endpoints]
        endpoints[0]["data"] = self._data()
        return self._identity("stats") | {"started": self._started, "endpoints": endpoints}
