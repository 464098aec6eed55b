"""Running a Python program inside a warm interpreter as if it had been started with it."""

from __future__ import annotations

import _thread
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
    sys.path.insert(0, path.rpartition("/")[0])
    main = types.ModuleType("__main__")
    main.__dict__.update(__file__=path, __builtins__=builtins)
    _mains.append(main)
    enter(path, args, stream, main.__dict__)
    return main.__dict__


def enter(path: str, args: list[str], stream: bool, variables: dict[str, Any]) -> None:
    """Make the last namespace that of the program at `path`, which is the first or a later one."""
    sys.argv = [path, *args]
    variables.update(__file__=path, __name__="__main__")
    sys.modules["__main__"] = _mains[-1]
    if sys.stdout.line_buffering != stream:
        sys.stdout.reconfigure(line_buffering=stream)  # type: ignore[union-attr]


_mains: list[types.ModuleType] = []
"""Keeps it alive, whatever the program does to `sys.modules`."""


def run(path: str, variables: dict[str, Any], source: bytes | None = None) -> int:
    """Run the program at `path` in its namespace and return its exit code, threads joined and output flushed.

    `source` is what the file was just written with, where that is at hand.
    """
    gc.enable()
    code = _guarded(lambda: execute(path, variables, source))
    return _finish(code)


def run_on(path: str, variables: dict[str, Any]) -> tuple[int, bool]:
    """As `run`; but where the program ends well and nothing of it goes on, the interpreter does not come to its end.

    Returns its exit code, and whether another program can be run.
    """
    gc.enable()
    code = _guarded(lambda: execute(path, variables))
    if code == 0 and _calm():
        return _flushed(code), True
    return _finish(code), False


def forget_modules(directory: str) -> None:
    """Have modules of a directory imported afresh: their files may be others now."""
    beginning = directory.rstrip("/") + "/"
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if isinstance(path, str) and path.startswith(beginning) and name != "__main__":
            del sys.modules[name]
    for path in [path for path in sys.path_importer_cache if (path + "/").startswith(beginning)]:
        del sys.path_importer_cache[path]
    lines = getattr(sys.modules.get("linecache"), "cache", None)
    if lines is not None:
        lines.clear()


def _calm() -> bool:
    """Wait for the program's threads, but for those that wait for work themselves; whether none is left."""
    threading = sys.modules.get("threading")
    if threading is None:
        return True
    pools = getattr(sys.modules.get("concurrent.futures.thread"), "_threads_queues", ())
    try:
        for thread in threading.enumerate():
            if thread is not threading.main_thread() and not thread.daemon and thread not in pools:
                thread.join()
        return bool(threading.active_count() == 1)
    except BaseException:  # noqa: BLE001 - the program may have replaced any of these functions, or be interrupted
        return False


def hide_agent() -> None:
    """Take our own modules out of sight, before any fork: a program may have a module of the same name."""
    package = __name__.partition(".")[0]
    names = [name for name in sys.modules if name.partition(".")[0] == package]
    _hidden.extend(sys.modules.pop(name) for name in names)


_hidden: list[types.ModuleType] = []
"""Keeps them alive: they are what runs."""


def execute(path: str, namespace: dict[str, Any], source: bytes | None = None) -> None:
    """Run the program at `path` in a namespace. Raises what it raises."""
    if source is None:
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
        threading = sys.modules.get("threading")
        if _threads() or getattr(threading, "_threading_atexits", True):  # else there is nothing to wait for
            shutdown = getattr(threading, "_shutdown", None)
            if shutdown is not None:
                shutdown()
        atexit._run_exitfuncs()  # noqa: SLF001 - the interpreter never gets to its own end
    except BaseException as error:  # noqa: BLE001 - handlers are the program's
        _report(error)
    return _flushed(code)


_threads = _thread._count  # noqa: SLF001 - of all threads but this one, also those that `threading` does not know


def _flushed(code: int) -> int:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # closed, replaced, or its reader gone
            code = code or 120
    return code
