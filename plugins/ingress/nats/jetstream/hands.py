"""The messages in hand: renewed until they are acked, or given back."""

import asyncio
import random

from nats.aio.msg import Msg

from runnerd import Counters

from ..connection import Connection, NoAnswer
from .message import Origin

_RENEW, _ACK, _NAK, _TERM = b"+WPI", b"+ACK", b"-NAK", b"+TERM"
_ACK_TRIES = 3
_TERM_BYTES = 200
_NS = 1_000_000_000


class Held:
    """A message in hand, under the newest subject on which it can be acked."""

    def __init__(self, msg: Msg, origin: Origin) -> None:
        self.msg = msg
        self.origin = origin
        self.ack = msg.reply
        self.came = asyncio.get_running_loop().time()


class Hands:
    """All messages in hand, each once, however often it was delivered here."""

    def __init__(self, connection: Connection, counters: Counters, *, answer_s: float) -> None:
        self._connection = connection
        self._counters = counters
        self._answer_s = answer_s
        self._held: dict[tuple[str, int], Held] = {}

    def __len__(self) -> int:
        return len(self._held)

    def take(self, msg: Msg, origin: Origin) -> Held | None:
        """Take a message in hand; None where it is, and came again."""
        held = self._held.get(origin.key)
        if held is not None:
            held.ack, held.origin = msg.reply, origin
            self._counters.count("redelivered_in_hand", stream=origin.stream)
            return None
        held = self._held[origin.key] = Held(msg, origin)
        return held

    async def renew(self, ack_wait_s: float) -> None:
        """Tell the server, three times in each `ack_wait_s`, that all of them are being worked on."""
        while True:
            await asyncio.sleep(ack_wait_s / 3)
            for held in list(self._held.values()):
                if not await self._connection.ask(held.ack, _RENEW, ""):
                    self._counters.count("renewals_lost")
                    break

    async def done(self, held: Held, poison: str = "") -> None:
        """Have the server forget the message, and wait until it has; it is not in hand any more then.

        `poison`: why it can never be run, for the server's operators. Where the server does not answer, the message comes
        again, and is answered from its record.
        """
        body = _TERM + b" " + poison.encode(errors="replace")[:_TERM_BYTES].replace(b"\r", b" ").replace(b"\n", b" ") if poison else _ACK
        for _ in range(_ACK_TRIES):
            try:
                await self._connection.request(held.ack, body, {}, self._answer_s)
                break
            except NoAnswer:
                continue
        else:
            self._counters.count("acks_lost")
        del self._held[held.origin.key]

    async def give_back(self, held: Held, delay_s: float = 0.0) -> None:
        """Have it delivered again, here or elsewhere, after `delay_s`. It is not in hand any more then."""
        del self._held[held.origin.key]  # first: it may come again at once
        delay_s *= random.uniform(0.8, 1.2)  # noqa: S311 - spreads what failed together, guards nothing
        body = _NAK + (b' {"delay": %d}' % int(delay_s * _NS) if delay_s else b"")
        if not await self._connection.ask(held.ack, body, ""):
            self._counters.count("naks_lost")  # it comes again when its time is over
