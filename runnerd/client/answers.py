"""Answers to a job's calls of tools: each call runs a function of the submitter's, beside its other calls, and its answer is sent."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from ..errors import Conflict, OverLimit, Rejected, RunnerdError, Saturated
from ..job import ToolCall
from ..nursery import open_nursery
from .bus import Bus, Lost
from .patience import Patience
from .pauses import Pauses

log = logging.getLogger("runnerd.client")

Tool = Callable[..., Awaitable[Any]]
"""A tool: called with the arguments that the program gives, by name. What it returns is written as JSON."""


class ToolError(Exception):
    """Raised by a tool to tell the program why it failed. Of any other exception the program only learns that there was one."""


class Answers:
    """Runs tools for one job. Made by `open_answers`."""

    def __init__(self, bus: Bus, patience: Patience, tools: Mapping[str, Tool], tasks: asyncio.TaskGroup) -> None:
        self._bus = bus
        self._patience = patience
        self._tools = tools
        self._tasks = tasks
        self._known: set[str] = set()
        self._running: set[asyncio.Task[None]] = set()

    def take(self, call: ToolCall) -> bool:
        """Answer a call, unless it is known already; False where none of our tools is meant."""
        if call.name not in self._tools:
            return False
        if call.call not in self._known:
            self._known.add(call.call)
            task = self._tasks.create_task(self._answer(call))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return True

    def end(self) -> None:
        """The job is over, or nobody waits for it: whatever still runs is cancelled."""
        for task in self._running:
            task.cancel()

    async def _answer(self, call: ToolCall) -> None:
        """Run a tool and send what it gives. Raises nothing: a task that failed would end the others."""
        try:
            answer, failed = await called(self._tools[call.name], call)
            await self._sent(call, answer, failed=failed)
        except (OverLimit, Rejected) as error:
            await self._sent_or_lost(call, f"its answer could not be passed on: {error}".encode())
        except RunnerdError as error:
            log.warning("call %s of %s by job %s could not be answered: %s", call.call, call.name, call.id, error)

    async def _sent_or_lost(self, call: ToolCall, reason: bytes) -> None:
        try:
            await self._sent(call, reason, failed=True)
        except RunnerdError as error:
            log.warning("call %s of %s by job %s could not be answered: %s", call.call, call.name, call.id, error)

    async def _sent(self, call: ToolCall, answer: bytes, *, failed: bool) -> None:
        pauses = Pauses(self._patience, self._patience.refused_s)
        while True:
            try:
                await self._bus.answer(call.tenant, call.id, call.call, answer, failed=failed)
            except (Saturated, Lost) as error:
                await pauses.after(error)
            except Conflict:
                return  # it came too late, or twice
            else:
                return


async def called(tool: Tool, call: ToolCall) -> tuple[bytes, bool]:
    """What a tool gives for a call: JSON, or why it failed, and whether it did."""
    try:
        arguments = msgspec.json.decode(call.arguments)
        return msgspec.json.encode(await tool(**arguments)), False
    except ToolError as error:
        return str(error).encode(errors="replace"), True
    except Exception as error:  # the submitter's own function: its log says how it failed, and the program that it did
        log.exception("tool %s failed for job %s", call.name, call.id)
        return f"the tool failed with {type(error).__name__}".encode(), True


@asynccontextmanager
async def open_answers(bus: Bus, patience: Patience, tools: Mapping[str, Tool]) -> AsyncGenerator[Answers]:
    """Answer calls while the block is open; what still runs when it is left is cancelled."""
    async with open_nursery() as tasks:
        answers = Answers(bus, patience, tools, tasks)
        try:
            yield answers
        finally:
            answers.end()
