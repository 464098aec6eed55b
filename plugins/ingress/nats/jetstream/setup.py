"""Streams and consumers on the server: made where they are missing, compared where they are there, never changed."""

import asyncio
import math
from typing import Any

from msgspec import Struct

from runnerd import IngressError

from ..connection import NoAnswer
from .api import CONSUMER_MISSING, STREAM_MISSING, Api, ApiError
from .topology import JOBS, Consumer, Topology, differences

_MISSING = (STREAM_MISSING, CONSUMER_MISSING)
_NS = 1_000_000_000
_LOOK_S = 2.0
"""How long it may take to see the stream of jobs. A server that does not let us see it says nothing at all."""


class Findings(Struct, kw_only=True):
    """What was found on the server, for people."""

    made: list[str] = []
    missing: list[str] = []
    different: list[str] = []
    consumers: dict[str, dict[str, Any]] = {}
    """Configurations of the consumers that there are now, by name."""

    @property
    def ack_wait_s(self) -> float:
        """The shortest time after which one of the consumers delivers a message again."""
        return min((config["ack_wait"] / _NS for config in self.consumers.values() if config.get("ack_wait")), default=math.inf)

    def group(self, consumer: str) -> str:
        """The priority group that a consumer wants to be asked for, empty for none."""
        groups = self.consumers.get(consumer, {}).get("priority_groups") or [""]
        return str(groups[0])


class Setup:
    """Looks after streams and consumers."""

    def __init__(self, api: Api, topology: Topology) -> None:
        self._api = api
        self._topology = topology

    async def there(self) -> bool:
        """Whether durable jobs are meant to be taken from this server: it has their stream, and we may see it."""
        try:
            async with asyncio.timeout(_LOOK_S):
                return await self._find(f"STREAM.INFO.{self._topology.stream(JOBS)}") is not None
        except (NoAnswer, IngressError, TimeoutError):
            return False

    async def look(self, *, make: bool) -> Findings:
        """Compare everything, and with `make` make what is missing. Raises IngressError."""
        findings = Findings()
        try:
            for wanted in self._topology.streams():
                await self._stream(wanted, findings, make=make)
            for consumer in self._topology.consumers():
                await self._consumer(consumer, findings, make=make)
        except NoAnswer as error:
            raise IngressError(f"JetStream: {error}: enable it on the server, and for this account and user") from None
        return findings

    async def again(self, consumer: Consumer, *, make: bool) -> Findings | None:
        """Look for a consumer that was gone, and with `make` make it again; None where it is not there."""
        findings = Findings()
        try:
            await self._consumer(consumer, findings, make=make)
        except (NoAnswer, IngressError):
            return None
        return None if findings.missing else findings

    async def _stream(self, wanted: dict[str, object], findings: Findings, *, make: bool) -> None:
        name = str(wanted["name"])
        found = await self._find(f"STREAM.INFO.{name}")
        if found is not None:
            findings.different += [f"stream {name}: {each}" for each in differences(wanted, found)]
        elif make:
            await self._make(f"STREAM.CREATE.{name}", wanted)
            findings.made.append(f"stream {name}")
        else:
            findings.missing.append(f"stream {name}")

    async def _consumer(self, consumer: Consumer, findings: Findings, *, make: bool) -> None:
        shown = f"consumer {consumer.name} of stream {consumer.stream}"
        found = await self._find(f"CONSUMER.INFO.{consumer.stream}.{consumer.name}")
        if found is not None:
            findings.consumers[consumer.name] = found
            findings.different += [f"{shown}: {each}" for each in differences(consumer.config, found)]
        elif make:
            subject = f"CONSUMER.CREATE.{consumer.stream}.{consumer.name}.{consumer.config['filter_subject']}"
            await self._make(subject, {"stream_name": consumer.stream, "action": "create", "config": consumer.config})
            findings.consumers[consumer.name] = consumer.config
            findings.made.append(shown)
        else:
            findings.missing.append(shown)

    async def _find(self, what: str) -> dict[str, Any] | None:
        """The configuration of a stream or consumer, None where there is none."""
        try:
            answer = await self._api.call(what)
        except ApiError as error:
            if error.code in _MISSING:
                return None
            raise IngressError(f"JetStream: {what}: {error}") from None
        config: dict[str, Any] = answer["config"]
        return config

    async def _make(self, what: str, request: dict[str, object]) -> None:
        try:
            await self._api.call(what, request)
        except ApiError as error:
            raise IngressError(f"JetStream: {what}: {error}") from None
