"""Running a Python program inside a warm interpreter as if it had been started with it."""

from __future__ import annotations

import atexit
import builtins
import gc
import os
import sys
import types
from collections.abc import Callable
from typing import Any


def namespace(path: str, args: list[str], stream: bool) -> dict[str, Any]:
    """Make this interpreter one that was started with the program at `path`; returns the globals of its `__main__`."""
    sys.argv = [path, *args]
    sys.path.insert(0, os.path.dirname(path))
    if stream:
        _reconfigure(line_buffering=True)
    main = types.ModuleType("__main__")
    main.__dict__.update(__file__=path, __builtins__=builtins)
    sys.modules["__main__"] = main
    _mains.append(main)
    return main.__dict__


_mains: list[types.ModuleType] = []
"""Keeps it alive, whatever the program does to `sys.modules`."""


def run(path: str, variables: dict[str, Any]) -> int:
    """Run the program at `path` in its namespace and return its exit code, threads joined and output flushed."""
    gc.enable()
    code = _guarded(lambda: execute(path, variables))
    return _finish(code)


def hide_agent() -> None:
    """Take our own modules out of sight, before any fork: a program may have a module of the same name."""
    package = __name__.partition(".")[0]
    names = [name for name in sys.modules if name.partition(".")[0] == package]
    _hidden.extend(sys.modules.pop(name) for name in names)


_hidden: list[types.ModuleType] = []
"""Keeps them alive: they are what runs."""


def execute(path: str, namespace: dict[str, Any]) -> None:
    """Run the program at `path` in a namespace. Raises what it raises."""
    with open(path, "rb") as file:
        source = file.read()
    exec(compile(source, path, "exec", dont_inherit=True), namespace)  # noqa: S102 - the job's program


def _guarded(action: Callable[[], None]) -> int:
    try:
        action()
    except SystemExit as leave:
        return _exit_code(leave)
    except BaseException as error:  # noqa: BLE001 - whatever the program raises ends it, as in any interpreter
        _report(error)
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _report(error: BaseException) -> None:
    """Print the traceback without the frames of this module."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__") == __name__:
        trace = trace.tb_next
    try:
        sys.excepthook(type(error), error.with_traceback(trace), trace)
    except BaseException:  # noqa: BLE001 - the program may have replaced the hook, or closed its stderr
        os.write(2, b"the program ended with an error that could not be printed\n")


def _exit_code(leave: SystemExit) -> int:
    if leave.code is None:
        return 0
    if isinstance(leave.code, int):
        return leave.code & 0xFF
    try:
        sys.stderr.write(f"{leave.code}\n")
    except BaseException:  # noqa: BLE001 - the exit value's own __str__, or a closed stderr
        return 1
    return 1


def _finish(code: int) -> int:
    """What the interpreter does at its end: join threads, run exit handlers, flush."""
    try:
        shutdown = getattr(sys.modules.get("threading"), "_shutdown", None)
        if shutdown is not None:
            shutdown()
        atexit._run_exitfuncs()  # noqa: SLF001 - the interpreter never gets to its own end
    except BaseException as error:  # noqa: BLE001 - handlers are the program's
        _report(error)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # closed, replaced, or its reader gone
            code = code or 120
    return code


def _reconfigure(line_buffering: bool) -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=line_buffering)  # type: ignore[union-attr]
