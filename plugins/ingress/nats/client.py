"""The NATS library's client, hardened against what any sender could do to it."""

import asyncio
import re
import time
from collections.abc import Callable

from nats.aio.client import Client, Srv
from nats.aio.transport import TcpTransport
from nats.protocol import parser

# The library splits a control line at any white space; servers split at spaces and tabs only. A vertical tab or a form
# feed in a subject would pass the server and then break the connection of all who subscribed to it.
parser.MSG_RE = re.compile(rb"\AMSG[ \t]+([^ \t\r\n]+)[ \t]+([^ \t\r\n]+)[ \t]+(([^ \t\r\n]+)[ \t]+)?(\d+)\r\n")
parser.HMSG_RE = re.compile(rb"\AHMSG[ \t]+([^ \t\r\n]+)[ \t]+([^ \t\r\n]+)[ \t]+(([^ \t\r\n]+)[ \t]+)?(\d+)[ \t]+(\d+)\r\n")


OFTEN_S = 0.002
"""What is to be written at once comes thick and fast where it comes twice within so long: then it is cheaper together."""


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
        self._at_once = False
        self._written_at = 0.0

    async def publish_at_once(self, subject: str, body: bytes, headers: dict[str, str]) -> None:
        """As `publish`, but written before anything else runs; unless there is much, of which the library's task writes all at once."""
        now = time.monotonic()
        if now - self._written_at < OFTEN_S:
            await self.publish(subject, body, headers=headers)
            return
        self._written_at = now
        self._at_once = True
        try:
            await self.publish(subject, body, headers=headers)
        finally:
            self._at_once = False
        await self._write()

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        try:
            await super()._process_msg(sid, subject, reply, data, headers)
        except (UnicodeError, LookupError, ValueError):
            self._malformed()

    async def _connect_to_server(self, s: Srv) -> None:
        if self._transport is not None:
            self._transport.close()  # type: ignore[no-untyped-call]
        await super()._connect_to_server(s)

    async def _flush_pending(self, force_flush: bool = False) -> None:
        if force_flush or not self._at_once:
            await super()._flush_pending(force_flush)

    async def _write(self) -> None:
        """Write what is pending, or have the library's task do it, which waits until the server takes more."""
        writer = self._transport._io_writer if isinstance(self._transport, TcpTransport) else None  # noqa: SLF001
        if writer is None or not self.is_connected or writer.transport.get_write_buffer_size():
            await super()._flush_pending()
            return
        pending, self._pending, self._pending_data_size = self._pending, [], 0
        writer.writelines(pending)

    async def _send_ping(self, future: "asyncio.Future[bool] | None" = None) -> None:
        self._pongs.append(future or asyncio.get_running_loop().create_future())
        await self._send_command(b"PING\r\n")
        await self._flush_pending()
