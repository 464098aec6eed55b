"""Entering and leaving a context in one task of its own, as pytest's fixtures don't."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeVar

T = TypeVar("T")


@asynccontextmanager
async def hosted(context: AbstractAsyncContextManager[T]) -> AsyncGenerator[T]:
    """The context, open while the block is; task groups in it never see two tasks."""
    loop = asyncio.get_running_loop()
    opened: asyncio.Future[T] = loop.create_future()
    leave = asyncio.Event()

    async def host() -> None:
        try:
            async with context as value:
                opened.set_result(value)
                await leave.wait()
        except BaseException as error:  # told to whoever entered it, whatever it is
            if opened.done():
                raise
            opened.set_exception(error)

    task = loop.create_task(host())
    value = await opened
    try:
        yield value
    finally:
        leave.set()
        await task
