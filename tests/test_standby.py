"""Standby children that end before their job comes: no two jobs share a cell for it, and no cell is lost."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from conftest import CELLS
from fake_executor import wait_until
from memory_workspace import MemoryWorkspace, run
from runnerd import Job, Language
from runnerd.errors import NotBegun
from runnerd.executors.local import LocalExecutor
from runnerd.spec import Content


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        return []


def standbys(executor: LocalExecutor) -> list[int]:
    """The children of all cells."""
    return [child for cell in children(executor.agent_pid or 0) for child in children(cell)]


async def kill_standbys(executor: LocalExecutor) -> None:
    """Kill them, and wait until others have taken their place."""
    killed = standbys(executor)
    for pid in killed:
        with suppress(ProcessLookupError):  # its cell has just renewed itself
            os.kill(pid, 9)
    await wait_until(lambda: len(set(standbys(executor)) - set(killed)) >= len(killed), "new children")


async def printed(executor: LocalExecutor, py: Language, text: str) -> str:
    job = Job(id="job", tenant="t", lang="py", code=f"open('kept', 'w').write('x'); print({text!r})")
    result = await run(executor, py, job, MemoryWorkspace())
    assert result.status == "ok", result
    return result.stdout


async def test_killed_while_nobody_has_them(at_level: LocalExecutor, py: Language) -> None:
    agent = at_level.agent_pid
    await asyncio.gather(*(printed(at_level, py, "cells are made") for _ in range(CELLS)))
    for _ in range(3):
        await kill_standbys(at_level)
    for number in range(2 * CELLS):  # one after the other: a cell that is there twice is taken again while its last job is cleared away
        assert await printed(at_level, py, str(number)) == f"{number}\n"
    texts = [str(number) for number in range(3 * CELLS)]
    assert await asyncio.gather(*(printed(at_level, py, text) for text in texts)) == [text + "\n" for text in texts]
    assert at_level.agent_pid == agent


async def test_killed_while_they_are_leased(at_level: LocalExecutor, py: Language) -> None:
    agent = at_level.agent_pid

    for _ in range(CELLS + 1):
        async with at_level.sandbox(py) as sandbox:
            await kill_standbys(at_level)
            assert "its standby child ended (wait status 9)" in await sandbox.lost()
    texts = [str(number) for number in range(2 * CELLS)]
    assert await asyncio.gather(*(printed(at_level, py, text) for text in texts)) == [text + "\n" for text in texts]
    assert at_level.agent_pid == agent


async def test_killed_while_they_wait_for_files(at_level: LocalExecutor, py: Language) -> None:
    async def read() -> AsyncIterator[bytes]:
        yield b"x" * 100_000
        await kill_standbys(at_level)
        yield b"x" * 100_000

    workspace = MemoryWorkspace()
    workspace.files = [Content(name="x", size=200_000, read=read)]
    with pytest.raises(NotBegun, match=r"before the program began \(wait status 9\)"):
        await run(at_level, py, Job(id="job", tenant="t", lang="py", code="print(1)"), workspace)
    assert await printed(at_level, py, "next") == "next\n"
