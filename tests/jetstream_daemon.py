"""A daemon in a process of its own: settings of its ingress as JSON, its directory, further settings. Runs until it is told to stop."""

import asyncio
import signal
import sys
from pathlib import Path

import msgspec
from runnerd_plugins.ingress.nats import Nats

from jetstream import Executor, a_daemon


async def main(settings: str, directory: str, *flags: str) -> None:
    nats = msgspec.convert(msgspec.json.decode(settings), Nats)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with a_daemon(nats, Path(directory), flags, Executor()) as daemon:
        print("ready", flush=True)
        await stopped.wait()
        await daemon.drain()


asyncio.run(main(*sys.argv[1:]))
