"""Connecting to the agent of a pod, and proving to it that we are whom it waits for, see `runnerd.agent.pod`."""

import asyncio
import hashlib
import hmac
import secrets
import socket
from typing import NamedTuple

from ...agent.frames import Header
from ...errors import SandboxError, SandboxLost
from ..framing import pack
from ..wire import Wire

FIRST_WAIT_S = 0.01
LONGEST_WAIT_S = 0.5
KEEPALIVE = (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
"""A node that vanishes says nothing: after half a minute without an answer the connection is lost."""


class Secret(NamedTuple):
    """What proves that we are the daemon of one pod."""

    secret: bytes

    @property
    def proof(self) -> bytes:
        """All that the pod knows of it."""
        return hashlib.sha256(self.secret).digest()


def new_secret() -> Secret:
    """A secret for one pod."""
    return Secret(secrets.token_bytes(32))


async def knock(address: str, port: int, secret: Secret) -> tuple[Wire, Header]:
    """The lease on the agent at `address`, and its `ready`. Raises SandboxError; waits as long as nobody listens there."""
    wire = await _connect(address, port)
    try:
        return wire, await _prove(wire, secret)
    except BaseException:
        wire.close()
        raise


async def _connect(address: str, port: int) -> Wire:
    loop = asyncio.get_running_loop()
    wait_s = FIRST_WAIT_S
    while True:
        try:
            transport, wire = await loop.create_connection(Wire, address, port)
        except ConnectionRefusedError:  # the container runs, and its agent does not listen yet
            await asyncio.sleep(wait_s)
            wait_s = min(LONGEST_WAIT_S, wait_s * 2)
        except OSError as error:
            raise SandboxError(
                f"the agent at {address} port {port} can't be reached from here: {error.strerror or error}: "
                "the daemon has to run in the cluster, or where pods' addresses are routed"
            ) from error
        else:
            sock: socket.socket = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in KEEPALIVE:
                if hasattr(socket, option):
                    sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
            return wire


async def _prove(wire: Wire, secret: Secret) -> Header:
    nonce = secrets.token_bytes(16)
    wire.send_all([pack({"type": "hello", "nonce": nonce.hex()})])
    try:
        hello, _ = await wire.receive()
        expected = hmac.new(secret.proof, nonce, hashlib.sha256).hexdigest()
        if hello["type"] != "hello" or not hmac.compare_digest(str(hello.get("proof")), expected):
            raise SandboxError("whoever answers at the pod's address is not its agent")
        wire.send_all([pack({"type": "prove", "secret": secret.secret.hex()})])
        ready, _ = await wire.receive()
    except SandboxLost as error:
        raise SandboxError(f"the agent gave no lease: {error}") from error
    if ready["type"] != "ready":
        raise SandboxError(f"the agent sent {ready['type']!r} instead of `ready`")
    return ready
