"""The messages in hand, each under its newest delivery, until they are acked or given back."""

import asyncio
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from aiormq.abc import DeliveredMessage

from runnerd import TOKEN, Counters, new_id

from .link import steady

_OWED = 10_000
"""Acks that were lost and are remembered."""


class Held:
    """A message in hand."""

    def __init__(self, message: DeliveredMessage, key: bytes, queue: str) -> None:
        self.message = message
        self.key = key
        self.queue = queue
        self.came = asyncio.get_running_loop().time()
        """When its newest delivery came, on the loop's clock."""
        self.parked = False
        """A copy of it waits in a retry queue, and this delivery is acked."""
        self.fallback_id = _fallback_id(message, key)
        """Its job's id where its sender gave none."""

    @property
    def lost(self) -> bool:
        """Whether this delivery can't be acked any more, so that the broker delivers the message again."""
        return self.parked or self.message.channel.is_closed

    @property
    def headers(self) -> Mapping[str, Any]:
        """The headers that it came with."""
        return self.message.header.properties.headers or {}


class Hands:
    """All messages in hand. A message that comes again while its job runs replaces its older delivery."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._held: dict[bytes, list[Held]] = {}
        self._owed: dict[bytes, None] = {}

    def all(self) -> list[Held]:
        """All of them."""
        return [held for each in self._held.values() for held in each]

    def take(self, message: DeliveredMessage, queue: str) -> tuple[Held, bool]:
        """Take a message in hand; False where there is nothing to do for it but `done`, or nothing at all, as it is in hand."""
        key = _key(message)
        if message.redelivered or "rd-copy" in (message.header.properties.headers or {}):
            for held in self._held.get(key, ()):
                if held.lost:
                    held.message, held.parked, held.came = message, False, asyncio.get_running_loop().time()
                    self._counters.count("redelivered_in_hand")
                    return held, False
            if key in self._owed:
                del self._owed[key]
                return Held(message, key, queue), False
        held = Held(message, key, queue)
        self._held.setdefault(key, []).append(held)
        return held, True

    def holds(self, held: Held) -> bool:
        """Whether it is in hand."""
        return held in self._held.get(held.key, ())

    def leave(self, held: Held) -> None:
        """It is not in hand any more."""
        standing = self._held.get(held.key, [])
        if held in standing:
            standing.remove(held)
        if not standing:
            self._held.pop(held.key, None)

    async def done(self, held: Held) -> None:
        """Ack it. Where that can't be, its next delivery is acked instead; or it is answered from its record, by whom it comes to."""
        if not held.parked and await self._tell(held, acked=True):
            return
        self._counters.count("acks_owed")
        self._owed[held.key] = None
        while len(self._owed) > _OWED:
            del self._owed[next(iter(self._owed))]

    async def give_back(self, held: Held) -> None:
        """Have it delivered again, here or elsewhere: nack and never reject, which counts against it from RabbitMQ 4.3 on."""
        if not held.parked:
            await self._tell(held, acked=False)

    async def park(self, held: Held) -> None:
        """Ack a message of which a copy waits elsewhere, and keep it in hand."""
        await self._tell(held, acked=True)
        held.parked = True

    async def _tell(self, held: Held, *, acked: bool) -> bool:
        channel, tag = held.message.channel, held.message.delivery_tag
        if channel.is_closed or tag is None:
            return False
        try:
            await steady(channel.basic_ack(tag) if acked else channel.basic_nack(tag, requeue=True))
        except Exception as error:  # noqa: BLE001 - a lost connection is told by any error there is; the message comes again
            self._counters.count("acks_lost", cause=str(error))
            return False
        return True


def _key(message: DeliveredMessage) -> bytes:
    """What all deliveries of a message have in common. Two messages may share it: then either answers for the other."""
    properties = message.header.properties
    digest = blake2b(digest_size=16)
    for part in (message.routing_key, properties.message_id, properties.correlation_id, properties.reply_to, properties.content_type):
        text = str(part or "").encode(errors="replace")
        digest.update(len(text).to_bytes(4, "big") + text)
    digest.update(message.body)
    return digest.digest()


def _fallback_id(message: DeliveredMessage, key: bytes) -> str:
    """A job id for a message without one. With a correlation id it is the same for each delivery, wherever it comes to."""
    properties = message.header.properties
    known = (properties.headers or {}).get("rd-copy")
    if isinstance(known, str) and TOKEN.fullmatch(known):
        return known
    return f"mq-{key.hex()}" if properties.correlation_id else new_id()
