"""A task group for blocks that are left with errors of their own."""

from asyncio import TaskGroup
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


@asynccontextmanager
async def open_nursery() -> AsyncGenerator[TaskGroup]:
    """A task group; what the block itself raises comes out as it is, and not in an ExceptionGroup.

    The block sees to it that its tasks end: leaving it waits for them, also after an error.
    """
    failure: BaseException | None = None
    async with TaskGroup() as tasks:
        try:
            yield tasks
        except BaseException as error:  # noqa: BLE001 - raised again below: inside, the task group would wrap it
            failure = error
    if failure is not None:
        raise failure
