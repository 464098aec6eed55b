"""Daemons in processes of their own, with sandboxes that do nothing, forked from this one, which has imported all that they need.

A line on the input is one daemon, in JSON: its name, the kind of its ingress, its directory, its settings. Each says on the output
`NAME pid N`, `NAME ready`, and `NAME tasks N` for each SIGUSR1; of each that has ended we say `NAME ended CODE`. SIGTERM drains one.
"""

import asyncio
import json
import os
import signal
import sys
import time
import traceback
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
    """Each line says when it was written, on the clock that all processes share, and whose it is."""
    return lambda _logger, _method, line: {**line, "at": f"{time.monotonic():.3f}", "by": name}


def say(name: str, *words: object) -> None:
    """In one write, as others use the same pipe."""
    os.write(1, (" ".join(map(str, (name, *words))) + "\n").encode())


async def serve(name: str, kind: str, directory: str, *flags: str) -> None:
    of = structlog.processors
    lines = [of.add_log_level, of.format_exc_info, of.KeyValueRenderer(["at", "by", "event"])]
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
        say(name, "tasks", len(asyncio.all_tasks()))

    async with open_daemon(settings, plugins, open_executor=given) as daemon:
        loop.add_signal_handler(signal.SIGTERM, stopped.set)
        loop.add_signal_handler(signal.SIGUSR1, tell)
        watching = asyncio.create_task(executor.ledger.watch())
        say(name, "ready")
        await stopped.wait()
        await daemon.drain()
        watching.cancel()


def daemon(argv: list[str]) -> int:
    """The exit code of one that ran."""
    with open(Path(argv[2]) / "log", "ab") as log:
        os.dup2(log.fileno(), 2)
    os.close(0)
    say(argv[0], "pid", os.getpid())
    try:
        asyncio.run(serve(*argv))
    except (StoreError, IngressError) as error:
        print(f"could not start: {error}", file=sys.stderr)  # its bus or its store is away: started again by whoever did
        return 3
    return 0


def main() -> None:
    names: dict[int, str] = {}

    def reap(*_: object) -> None:
        while names and (ended := os.waitpid(-1, os.WNOHANG))[0]:
            say(names.pop(ended[0]), "ended", os.waitstatus_to_exitcode(ended[1]))

    find_plugins()  # imports them
    signal.signal(signal.SIGCHLD, reap)
    for line in sys.stdin:
        argv = json.loads(line)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])  # until its name is known
        if pid := os.fork():
            names[pid] = argv[0]
        else:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        if not pid:
            code = 1
            try:
                code = daemon(argv)
            except BaseException:  # noqa: BLE001 - it must not go on as a second parent
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)


main()
