"""A daemon in a process of its own, with sandboxes that do nothing: the kind of its ingress, its directory, its name, its settings.

Says `ready` on its output, and `tasks N` for each SIGUSR1. SIGTERM drains it.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import structlog

from chaos.executor import Ledger, NoopExecutor
from fake_executor import a_language
from runnerd import IngressError, StoreError
from runnerd.config import load_config
from runnerd.daemon import open_daemon
from runnerd.plugins import find_plugins


def log_name(name: str) -> Callable[..., MutableMapping[str, Any]]:
    """Each line says whose it is."""
    return lambda _logger, _method, line: {**line, "by": name}


async def main(kind: str, directory: str, name: str, *flags: str) -> None:
    of = structlog.processors
    lines = [of.add_log_level, of.TimeStamper(fmt="%H:%M:%S.%f", key="at"), of.format_exc_info, of.KeyValueRenderer(["at", "event"])]
    structlog.configure(processors=[log_name(name), *lines], logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    state = Path(directory)
    executor = NoopExecutor(Ledger(str(state / "ledger"), name))
    plugins = find_plugins()
    language = a_language("py", run=("sh", "{file}"), version=("sh", "-c", "echo 1"))
    plugins = msgspec.structs.replace(plugins, languages={"py": language})
    own = (f"state_dir={state}/{name}", "pool.enabled=no", "store.blob.kind=memory", f"ingress.{kind}.enabled=yes", *flags)
    settings = load_config(plugins, flags=own, environ={}, directory=state).settings
    settings = msgspec.structs.replace(settings, ingress={kind: settings.ingress[kind]})

    @asynccontextmanager
    async def given(*_: Any) -> AsyncIterator[NoopExecutor]:
        yield executor

    def tell() -> None:
        print(f"tasks {len(asyncio.all_tasks())}", flush=True)

    async with open_daemon(settings, plugins, open_executor=given) as daemon:
        loop.add_signal_handler(signal.SIGTERM, stopped.set)
        loop.add_signal_handler(signal.SIGUSR1, tell)
        print("ready", flush=True)
        await stopped.wait()
        await daemon.drain()


try:
    asyncio.run(main(*sys.argv[1:]))
except (StoreError, IngressError) as error:
    print(f"could not start: {error}", file=sys.stderr)  # its bus or its store is away: started again by whoever did
    sys.exit(3)
