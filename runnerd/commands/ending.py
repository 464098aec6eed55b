"""How a command that deals with jobs ends: what it says of a job's end or of an error, the files it saves, its exit code."""

from collections.abc import AsyncGenerator, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from ..job import Event, Result
    from .live import Live

ENDED = 1
"""Exit code of a cancel that came too late."""
UNKNOWN, NOT_YET, FAILED = 122, 123, 125
"""Exit codes beside a program's own: there is no such job, it has no result yet, runnerd failed. 124 is a timeout's."""
INTERRUPTED, CLOSED, TERMINATED = 130, 141, 143
"""Exit codes of what was ended by SIGINT, SIGPIPE, SIGTERM."""


@contextmanager
def ending() -> Iterator[None]:
    """Turn what ends a command into what it says and its exit code. Raises typer.Exit."""
    import asyncio

    from ..errors import RunnerdError
    from ..log import LogSettings, open_log
    from .live import Closed

    try:
        with open_log(LogSettings(level="critical", format="text")):
            yield
    except KeyboardInterrupt:
        code = INTERRUPTED
    except asyncio.CancelledError:
        code = TERMINATED
    except Closed:
        code = CLOSED
    except (RunnerdError, ExceptionGroup) as raised:
        code = told(raised)
    else:
        return
    raise typer.Exit(code)


def run_to_end(command: Coroutine[Any, Any, int]) -> None:
    """Run what gives the exit code; SIGTERM cancels it, as Ctrl-C does. Raises typer.Exit, and what it raises."""
    import asyncio
    import signal

    async def cancellable() -> int:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await command

    raise typer.Exit(asyncio.run(cancellable()))


async def shown(events: "AsyncGenerator[Event]", live: "Live | None") -> "Result":
    """The result that ends the events, after all output was shown. Raises Closed, and what the events raise."""
    from contextlib import aclosing

    from ..job import Result

    async with aclosing(events):
        async for event in events:
            if live is not None:
                await live.show(event)
            if isinstance(event, Result):
                return event
    raise AssertionError("a job's events end with its result")


def reported(result: "Result", *, json: bool, out: str, force: bool) -> int:
    """Say how a job ended, and save its files where `out` names a directory; returns the exit code. Raises RunnerdError."""
    import msgspec

    from .live import exit_code, unsaved, verdict
    from .outfiles import save_files

    if json:
        typer.echo(msgspec.json.encode(result))
    else:
        for line in [*verdict(result), *([] if out or not unsaved(result) else [unsaved(result)])]:
            say(line)
    if out:
        save_files(result.files, Path(out), force=force)
    return exit_code(result)


def told(error: BaseException) -> int:
    """Say what failed; returns the exit code. What is no error of ours is raised."""
    from ..errors import RunnerdError

    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if not isinstance(error, RunnerdError):
        raise error
    for line in str(error).splitlines():
        say(line)
    return FAILED


def say(line: str) -> None:
    """A line for people, on standard error: standard output is the program's."""
    typer.echo(f"runnerd: {line}", err=True)
