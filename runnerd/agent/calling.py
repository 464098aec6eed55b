"""Calls of tools, for programs in Python: `from runnerd_tools import call`. Every warm interpreter has this module, under that name.

    total = call("add", a=1, b=2)                    # waits for the answer
    both = await gather(call_async("add", a=1, b=2), call_async("add", a=3, b=4))

A call is a line of JSON on one descriptor, and its answer a line on another, in any order: see pipes.py. One thread reads
answers, from the first call on.
"""

from __future__ import annotations

import _thread
import itertools
import json
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concurrent.futures import Future

NAME = "runnerd_tools"
__name__ = NAME  # so that what is defined here is known under it: errors are shown with it, and pickled by it
__all__ = ["ToolError", "call", "call_async"]


class ToolError(Exception):
    """A tool failed, nobody answered in time, or it could not be called; the text says which."""


def call(name: str, /, **arguments: Any) -> Any:
    """Call a tool of the job and return what it gives. Raises ToolError, and TypeError where an argument can't be written as JSON."""
    return _begin(name, arguments).result()


async def call_async(name: str, /, **arguments: Any) -> Any:
    """The same in a coroutine; any number may be under way at once."""
    import asyncio  # noqa: PLC0415 - only where it is used

    return await asyncio.wrap_future(_begin(name, arguments))


class _Calls:
    """The calls of one process."""

    def __init__(self, calls: int, answers: int) -> None:
        import threading  # noqa: PLC0415

        self.pid = os.getpid()
        self._calls = calls
        self._answers = os.dup(answers)  # an interpreter that lives on gets others under that number
        self._waiting: dict[int, Future[Any]] = {}
        self._numbers = itertools.count(1)
        self._over = ""
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        threading.Thread(target=self._listen, name=NAME, daemon=True).start()

    def begin(self, name: str, arguments: dict[str, Any]) -> Future[Any]:
        """Send a call; the future gets its answer."""
        from concurrent.futures import Future  # noqa: PLC0415

        number = next(self._numbers)
        line = json.dumps({"id": number, "name": name, "arguments": arguments}, allow_nan=False).encode() + b"\n"
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        with self._lock:
            if self._over:
                raise ToolError(self._over)
            self._waiting[number] = future
        try:
            with self._turn:
                while line:
                    line = line[os.write(self._calls, line) :]
        except OSError:
            pass  # no more calls are taken: whoever listens is told why
        return future

    def _listen(self) -> None:
        with open(self._answers, "rb") as answers:
            for line in answers:
                self._take(json.loads(line))
        self._end("no more calls of tools are answered")

    def _take(self, answer: dict[str, Any]) -> None:
        future = self._waiting.pop(answer["id"], None)
        if future is None:
            if answer["id"] is None:
                self._end(answer["error"])
        elif "error" in answer:
            future.set_exception(ToolError(answer["error"]))
        else:
            future.set_result(answer["result"])

    def _end(self, reason: str) -> None:
        with self._lock:
            self._over = self._over or reason
        while self._waiting:
            self._waiting.popitem()[1].set_exception(ToolError(self._over))


_guard = _thread.allocate_lock()
_made: list[_Calls] = []


def renew() -> None:
    """Another program begins in this interpreter."""
    _made.clear()


def _begin(name: str, arguments: dict[str, Any]) -> Future[Any]:
    with _guard:
        if not _made:
            if "RUNNERD_CALLS" not in os.environ:
                raise ToolError("this job may call no tools: whoever submits it names them in its field `tools`")
            _made.append(_Calls(int(os.environ["RUNNERD_CALLS"]), int(os.environ["RUNNERD_ANSWERS"])))
    if _made[0].pid != os.getpid():
        raise ToolError("only the process that has begun to call tools may go on with it: answers come to one")
    return _made[0].begin(name, arguments)
