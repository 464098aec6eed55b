"""Run a piece of a test in a child process: for what can't be undone."""

import os
import pickle
import signal
import time
import traceback
from collections.abc import Callable
from typing import Any

CHILD_S = 60
"""A child that takes longer is ended by SIGALRM."""


def in_child(function: Callable[..., Any], *args: Any) -> Any:
    """Call `function` in a forked child and return what it returned; AssertionError where it raised or died."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(read)
            signal.alarm(CHILD_S)
            try:
                answer = (True, function(*args))
            except BaseException:  # noqa: BLE001 - handed over to the parent
                answer = (False, traceback.format_exc())
            _write_all(write, pickle.dumps(answer))
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        data = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert data, f"the child ended with {status} and no answer"
    ok, value = pickle.loads(data)
    assert ok, value
    return value


def ending(function: Callable[..., Any], *args: Any) -> int:
    """Call `function` in a forked child; its exit code, or minus the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            signal.alarm(CHILD_S)
            function(*args)
            code = 0
        except BaseException:  # noqa: BLE001 - the child must not go on as a second test run
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def wait_until(condition: Callable[[], Any], what: str, most_s: float = 20.0) -> None:
    """Wait for a condition; AssertionError, saying for what, where it does not come."""
    deadline = time.monotonic() + most_s
    while not condition():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.005)


def errno_of(function: Callable[..., Any], *args: Any) -> int:
    """The errno with which a call fails, 0 where it does not."""
    try:
        function(*args)
    except OSError as error:
        return error.errno or -1
    return 0


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
