"""A door to the Kubernetes API that can be shut, and a kubeconfig that leads through it."""

import asyncio
import base64
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import yaml


class Door:
    """Carries connections to the API while it is open; shut, it ends them and takes no more."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._server: asyncio.Server | None = None
        self._writers: set[StreamWriter] = set()
        self.port = 0

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def shut(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()

    async def _carry(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            theirs, ours = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, ours}
        self._writers |= both
        await asyncio.gather(_pump(reader, ours), _pump(theirs, writer))
        self._writers -= both


async def _pump(reader: StreamReader, writer: StreamWriter) -> None:
    with suppress(OSError, ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()


@asynccontextmanager
async def door(kubeconfig: str, directory: Path) -> AsyncIterator[tuple[Door, str]]:
    """A door to the cluster of a kubeconfig, open, and the kubeconfig that leads through it."""
    text = yaml.safe_load(Path(kubeconfig).read_text())
    url = urlsplit(text["clusters"][0]["cluster"]["server"])
    assert url.hostname
    found = Door(url.hostname, url.port or 443)
    await found.open()
    text["clusters"][0]["cluster"].update({"server": f"https://127.0.0.1:{found.port}", "tls-server-name": url.hostname})
    file = directory / "kubeconfig"
    file.write_text(yaml.safe_dump(text))
    try:
        yield found, str(file)
    finally:
        await found.shut()


def with_token(kubeconfig: str, token: str, directory: Path) -> str:
    """The kubeconfig of somebody else in the same cluster."""
    text = yaml.safe_load(Path(kubeconfig).read_text())
    text["users"][0]["user"] = {"token": token}
    cluster = text["clusters"][0]["cluster"]
    if file := cluster.pop("certificate-authority", None):
        cluster["certificate-authority-data"] = base64.b64encode(Path(file).read_bytes()).decode()
    path = directory / "kubeconfig"
    path.write_text(yaml.safe_dump(text))
    return str(path)
