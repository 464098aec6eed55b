"""`runnerd serve`: the daemon, until it is told to stop."""

from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from .options import ConfigFile, Set

if TYPE_CHECKING:
    import asyncio

    from ..config import Config, Settings
    from ..daemon import Daemon
    from ..plugins import Plugins

    First = Callable[[Settings, Daemon], Coroutine[Any, Any, bool]]


def serve(*, file: ConfigFile = "", flags: Set = None) -> None:
    """Take jobs and run them, until SIGTERM or Ctrl-C: then finish those in hand. A second one gives them back at once.

    Examples:

      runnerd serve

      runnerd serve --set ingress.http.port=9000 --set scheduler.slots=4
    """
    run_daemon(file, flags or ())


def run_daemon(file: str, flags: Sequence[str], first: "First | None" = None) -> None:
    """Run a daemon until it is told to stop, or until `first` returns False, which runs once it takes jobs."""
    import asyncio

    from ..config import load_config
    from ..errors import RunnerdError
    from ..heap import keep_buffers
    from ..log import open_log
    from ..plugins import find_plugins

    keep_buffers()
    plugins = find_plugins()
    config = load_config(plugins, file=file, flags=flags)
    with open_log(config.settings.log):
        try:
            asyncio.run(_serve(config, plugins, first))
        except* RunnerdError as group:
            raise _first(group) from None


async def _serve(config: "Config", plugins: "Plugins", first: "First | None") -> None:
    from ..daemon import open_daemon
    from ..executors.slices import shorten_slice
    from ..heap import keep_objects

    shorten_slice()
    with _signals() as came:
        async with open_daemon(config.settings, plugins) as daemon:
            keep_objects()
            for line in _welcome(config, daemon):
                typer.echo(line)
            if first is None or await _unless_stopped(first(config.settings, daemon), came):
                await came.get()
                typer.echo("Stopping: finishing the jobs in hand. Once more gives them back at once.")
            await _drain(daemon, came)
    typer.echo("Stopped.")


async def _unless_stopped(first: Coroutine[Any, Any, bool], came: "asyncio.Queue[int]") -> bool:
    """What `first` returns; a signal ends it early, and is left in the queue."""
    import asyncio

    async with asyncio.TaskGroup() as tasks:
        result = tasks.create_task(first)
        signal = tasks.create_task(came.get())
        await asyncio.wait({result, signal}, return_when=asyncio.FIRST_COMPLETED)
        result.cancel()
        signal.cancel()
    if signal.cancelled():
        return result.result()
    came.put_nowait(signal.result())
    return True


async def _drain(daemon: "Daemon", came: "asyncio.Queue[int]") -> None:
    import asyncio

    async with asyncio.TaskGroup() as tasks:
        drained = tasks.create_task(daemon.drain())
        again = tasks.create_task(came.get())
        await asyncio.wait({drained, again}, return_when=asyncio.FIRST_COMPLETED)
        if again.done():
            await daemon.give_back()
        again.cancel()


@contextmanager
def _signals() -> "Iterator[asyncio.Queue[int]]":
    """SIGTERM and SIGINT as they come, while the block is open."""
    import asyncio
    import signal

    loop = asyncio.get_running_loop()
    came: asyncio.Queue[int] = asyncio.Queue()
    wanted = (signal.SIGTERM, signal.SIGINT)
    for number in wanted:
        loop.add_signal_handler(number, came.put_nowait, number)
    try:
        yield came
    finally:
        for number in wanted:
            loop.remove_signal_handler(number)


def _welcome(config: "Config", daemon: "Daemon") -> Iterator[str]:
    from .. import __version__

    settings = config.settings
    ready = [code for code in daemon.languages if daemon.availability.present(code)]
    missing = [code for code in daemon.languages if code not in ready]
    yield f"runnerd {__version__}"
    for kind, address in daemon.addresses.items():
        yield f"  {kind:<10} {address}"
    yield f"  {'isolation':<10} {daemon.executor.level} ({daemon.executor.name}); jobs need {settings.isolation.minimum} at least"
    yield f"  {'languages':<10} {' '.join(ready) or 'none'}"
    if missing:
        yield f"  {'':<10} no tool chain here for: {' '.join(missing)} (`runnerd languages` says how to install one)"
    yield f"  {'state':<10} {settings.state_dir}"
    if config.notes:
        many = len(config.notes)
        without = "1 setting does not do what it says" if many == 1 else f"{many} settings do not do what they say"
        yield f"  {'note':<10} {without}: `runnerd check` says which"
    if refuses := daemon.refuses():
        yield f"  {'WARNING':<10} every job is rejected: {refuses}"


def _first(group: BaseExceptionGroup) -> BaseException:
    """The first error of a group, however deep."""
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner
