"""The executor's end of the wire to an agent: frames over one asyncio stream."""

import asyncio
import os
import socket
from collections import deque
from typing import cast

from ..agent.frames import FrameError, Header, Unpacker
from ..errors import SandboxLost
from . import framing

PAUSE_FRAMES = 256
"""Frames that wait to be taken before the agent has to wait."""
PAUSE_BYTES = 2 << 20
"""Bytes in them, likewise."""


class Wire(asyncio.Protocol):
    """One connection to an agent. Made by `loop.create_unix_connection(Wire, path)`."""

    def __init__(self) -> None:
        self._unpacker = Unpacker(header=framing.header)
        self._frames: deque[tuple[Header, bytes]] = deque()
        self._bytes = 0
        self._wake: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._reading = True
        self._closed = ""
        self.patience_s: float | None = None
        """How long the agent may be waited for in all, from now on; None: for ever. Then it is hung up on."""

    async def receive(self) -> tuple[Header, bytes]:
        """The next frame. Raises SandboxLost where the agent hung up, says that the sandbox is lost, or was waited for too long."""
        while not self._frames:
            if self._closed:
                raise SandboxLost(self._closed)
            wake = self._wake = asyncio.get_running_loop().create_future()
            try:
                await self._wait(wake)
            finally:
                if self._wake is wake:  # else somebody else waits by now: a job, where this was who watched over its warm sandbox
                    self._wake = None
        frame = self._frames.popleft()
        self._bytes = self._bytes - len(frame[1]) if self._frames else 0
        if not self._reading and self._bytes < PAUSE_BYTES // 2 and len(self._frames) < PAUSE_FRAMES // 2 and self._transport is not None:
            self._reading = True
            self._transport.resume_reading()
        if frame[0]["type"] == "lost":
            raise SandboxLost(str(frame[0].get("reason", "the agent gave no reason")))
        return frame

    async def _wait(self, told: "asyncio.Future[None]") -> None:
        """Wait for the agent, which is hung up on where it takes too long."""
        if self.patience_s is None:
            await told
            return
        loop = asyncio.get_running_loop()
        began = loop.time()
        timer = loop.call_later(self.patience_s, self._overdue, told)
        try:
            await told
        finally:
            timer.cancel()
            if self.patience_s is not None:  # the job may be over, where this was its input that waited
                self.patience_s = max(0.0, self.patience_s - (loop.time() - began))

    def _overdue(self, told: "asyncio.Future[None]") -> None:
        if not told.done():  # else it has answered, and we did not get to hear it, as after a pause of this process
            self.fail("the agent has not answered in time")

    async def wait_closed(self) -> str:
        """Wait until the agent hangs up or says something, before any job was sent; returns why."""
        try:
            header, _ = await self.receive()
        except SandboxLost as error:
            return str(error)
        return f"the agent sent {header['type']!r} without having a job"

    def send_all(self, frames: list[bytes]) -> None:
        """Send packed frames in one go. Nothing happens where the agent has hung up."""
        if self._transport is not None and not self._closed:
            self._transport.write(b"".join(frames))

    @property
    def shares(self) -> bool:
        """Whether `share` can be used now."""
        transport = self._transport
        if transport is None or self._closed or transport.get_write_buffer_size():
            return False
        return bool(transport.get_extra_info("socket").family == socket.AF_UNIX)

    def share(self, frames: list[bytes], fd: int) -> None:
        """Send packed frames in one go, with a descriptor. Where that is not possible the connection is given up."""
        assert self._transport is not None
        data = b"".join(frames)
        try:
            with socket.socket(fileno=os.dup(self._transport.get_extra_info("socket").fileno())) as sock:
                sent = socket.send_fds(sock, [data], [fd])
        except OSError as error:
            self._close(f"the agent can't be told anything: {error.strerror}")
            self.close()
        else:
            self._transport.write(data[sent:])

    @property
    def heard(self) -> bool:
        """Whether the agent has said something that was not received yet, or has hung up."""
        return bool(self._frames or self._closed)

    async def send(self, frame: bytes) -> None:
        """Send a packed frame, once the agent has read most of what was sent before. Returns at once where it has hung up."""
        if self._room is not None:
            await self._wait(self._room)
        if self._transport is not None and not self._closed:
            self._transport.write(frame)

    def close(self) -> None:
        """Hang up: whatever ran for this connection ends."""
        if self._transport is not None:
            self._transport.abort()

    def fail(self, reason: str) -> None:
        """Hang up; whoever waits for the agent is told why."""
        self._close(reason)
        self.close()
        self.resume_writing()
        self._notify()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Take frames; more than enough of them, and the agent has to wait."""
        self._bytes += len(data)
        try:
            self._frames.extend(self._unpacker.feed(data))
        except FrameError as error:
            self._close(f"the agent sent what is no frame: {error}")
            self.close()
        if (self._bytes > PAUSE_BYTES or len(self._frames) > PAUSE_FRAMES) and self._transport is not None and self._reading:
            self._reading = False
            self._transport.pause_reading()
        self._notify()

    def connection_lost(self, exc: Exception | None) -> None:
        """The agent is gone, or we hung up."""
        self._close(f"the agent hung up{f': {exc}' if exc else ''}")
        self.resume_writing()
        self._notify()

    def pause_writing(self) -> None:
        """Enough waits to be written."""
        self._room = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """There is room again, or nobody who reads."""
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    def _close(self, reason: str) -> None:
        self._closed = self._closed or reason

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
