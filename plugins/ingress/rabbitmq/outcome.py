"""What becomes of a message whose job has ended, or has to come again: a dead letter, the reply, a copy for later, and the ack."""

import re
import time
from collections.abc import Mapping
from typing import Any

from aio_pika import DeliveryMode, Message
from pamqp.encode import field_table

from runnerd import Counters, Result

from .bus import Bus
from .hands import Hands, Held
from .reply import DIRECT, Reply, heading
from .request import came_s, folded
from .topology import Topology

_BROKERS = ("x-death", "x-first-death-exchange", "x-first-death-queue", "x-first-death-reason", "x-delivery-count", "x-last-death-queue")


_COUNT = re.compile(r"[0-9]{1,9}")


def encodable(name: str, value: Any) -> bool:
    """Whether the library can write what it has read: text that is no UTF-8, say, it can't."""
    try:
        field_table({name: value})
    except (TypeError, ValueError):
        return False
    return True


REASON_HEADERS = ("Rd-Dead-Reason", "Rd-Attempts", "Rd-Job-Id", "Rd-Died", "Rd-Routing-Key", "rd-again", "rd-came", "rd-copy", "rd-delay")
"""What a dead letter, or a copy for later, has beside the headers that its job came with."""


class Outcomes:
    """The record in the store has each result already, so all that is done here may be done again."""

    def __init__(self, bus: Bus, hands: Hands, *, events: bool) -> None:
        self._bus = bus
        self._hands = hands
        self.statuses: dict[str, int] = {}
        """Results by status."""
        self._events = events

    @property
    def _topology(self) -> Topology:
        return self._bus.topology

    @property
    def _counters(self) -> Counters:
        return self._bus.counters

    async def ended(self, held: Held, reply: Reply, result: Result, code: int | None = None) -> None:
        """Tell whoever asked, and have the message forgotten. Raises NotSent."""
        self.statuses[result.status] = self.statuses.get(result.status, 0) + 1
        if result.status == "dead":
            await self._until_kept(held, result.id, result.reason, result.starts)
        message = reply.result(result, code)
        if self._events and result.tenant and result.id:
            key = f"evt.{result.tenant}.{result.id}.result"
            await self._bus.offer(message, key, exchange=self._topology.events, patience_s=1.0)
        if reply.to:
            sent = await self._bus.publish(message, reply.to, mandatory=not reply.to.startswith(DIRECT))
            if sent != "sent":
                self._counters.count(f"replies_{sent}", job=result.id, queue=reply.to[:100])
        await self._hands.done(held)

    async def bury(self, held: Held, job_id: str, reason: str) -> None:
        """Keep what can't be answered, with the reason, and have the message forgotten. Raises NotSent."""
        await self._until_kept(held, job_id, reason, 0)
        await self._hands.done(held)

    async def later(self, held: Held, least_s: float) -> bool:
        """Have it come again after a while, here or elsewhere; False where the broker takes no copy. Raises NotSent."""
        headers = folded(held.message.header.properties)
        text = headers.get("rd-again", "")
        again = int(text) if _COUNT.fullmatch(text) else 0
        delays_s = self._topology.delays_s
        delay_s = next((each for each in delays_s[min(again, len(delays_s) - 1) :] if each >= least_s), delays_s[-1])
        if not await self._copy(held, delay_s, {"rd-again": again + 1}):
            return False
        await self._hands.done(held)
        return True

    async def park(self, held: Held, most_s: float) -> None:
        """Renew a message whose ack would come too late for the broker: a copy waits in its place. Raises NotSent."""
        delay_s = max((each for each in self._topology.delays_s if each <= most_s), default=self._topology.delays_s[0])
        if await self._copy(held, delay_s, {}):
            await self._hands.park(held)

    async def _copy(self, held: Held, delay_s: int, more: Mapping[str, Any]) -> bool:
        now = time.time()
        properties = held.message.header.properties
        came = came_s(folded(properties)) or now
        headers = {"rd-came": f"{came:.3f}", "rd-copy": held.fallback_id, "rd-delay": f"{delay_s}s", **more}
        if properties.expiration and "rd-queue-ttl-ms" not in folded(properties):
            headers["rd-queue-ttl-ms"] = properties.expiration  # the copy has to outlive the retry queue
        copy = self._as_it_came(held, headers)
        sent = await self._bus.publish(copy, held.message.routing_key or "", exchange=self._topology.retry, mandatory=True)
        if sent != "sent":
            self._counters.count(f"copies_{sent}", queue=held.queue)
        return sent == "sent"

    async def _until_kept(self, held: Held, job_id: str, reason: str, starts: int) -> None:
        """A dead letter. Where nobody keeps those, the log has the reason at least."""
        told = {
            "Rd-Dead-Reason": heading(reason),
            "Rd-Attempts": starts,
            "Rd-Job-Id": job_id,
            "Rd-Died": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "Rd-Routing-Key": held.message.routing_key or "",
        }
        letter = self._as_it_came(held, told)
        sent = await self._bus.publish(letter, held.message.routing_key or "", exchange=self._topology.dead, mandatory=True)
        self._counters.count("dead_letters" if sent == "sent" else f"dead_letters_{sent}", job=job_id, reason=reason)

    @staticmethod
    def _as_it_came(held: Held, more: Mapping[str, Any]) -> Message:
        """The message again, with further headers, and without what the broker wrote on it and would write again."""
        properties = held.message.header.properties
        names = {name.lower() for name in more}
        own = {
            name: value
            for name, value in held.headers.items()
            if name not in _BROKERS and name.lower() not in names and encodable(name, value)
        }
        return Message(
            held.message.body,
            headers=own | dict(more),
            content_type=properties.content_type,
            content_encoding=properties.content_encoding,
            delivery_mode=DeliveryMode.PERSISTENT,
            priority=properties.priority,
            correlation_id=properties.correlation_id,
            reply_to=properties.reply_to,
            message_id=properties.message_id,
            timestamp=properties.timestamp,
            type=properties.message_type,
            app_id=properties.app_id,
        )
