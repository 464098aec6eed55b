"""The NATS library's client, hardened against what any sender could do to it."""

import asyncio
import re
from collections.abc import Callable

from nats.aio.client import Client, Srv
from nats.protocol import parser

# The library splits a control line at any white space; servers split at spaces and tabs only. A vertical tab or a form
# feed in a subject would pass the server and then break the connection of all who subscribed to it.
parser.MSG_RE = re.compile(rb"\AMSG[ \t]+([^ \t\r\n]+)[ \t]+([^ \t\r\n]+)[ \t]+(([^ \t\r\n]+)[ \t]+)?(\d+)\r\n")
parser.HMSG_RE = re.compile(rb"\AHMSG[ \t]+([^ \t\r\n]+)[ \t]+([^ \t\r\n]+)[ \t]+(([^ \t\r\n]+)[ \t]+)?(\d+)[ \t]+(\d+)\r\n")


class HardClient(Client):
    """A client that survives messages which are not what they should be, and whose flush is one.

    An exception from one message (a subject that is no UTF-8, a header block that is too short) would end the library's
    reading of the connection without a word, until pings have failed for long enough. And its pings overtake what waits
    to be written, so that `flush` and `drain` return before the server knows of a subscription, or of its end. And it forgets
    the socket of an attempt to connect again that failed half-way, open.
    """

    def __init__(self, malformed: Callable[[], None]) -> None:
        super().__init__()
        self._malformed = malformed

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        try:
            await super()._process_msg(sid, subject, reply, data, headers)
        except (UnicodeError, LookupError, ValueError):
            self._malformed()

    async def _connect_to_server(self, s: Srv) -> None:
        if self._transport is not None:
            self._transport.close()  # type: ignore[no-untyped-call]
        await super()._connect_to_server(s)

    async def _send_ping(self, future: "asyncio.Future[bool] | None" = None) -> None:
        self._pongs.append(future or asyncio.get_running_loop().create_future())
        await self._send_command(b"PING\r\n")
        await self._flush_pending()
