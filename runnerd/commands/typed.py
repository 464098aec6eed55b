"""The command's standard input, on its way to a program that runs."""

import asyncio
import os
from typing import TYPE_CHECKING

from ..errors import Conflict

if TYPE_CHECKING:
    from ..client import Submission

STDIN = 0
PIECE = 1 << 16
PATIENCE_S = 86_400.0
"""How long a program may take to read what was typed, in seconds."""


async def pass_on(submission: "Submission") -> None:
    """Send what comes, and its end. Returns when all was sent, or the program has ended. Raises RunnerdError."""
    piece = b"-"
    while piece:
        await _readable()
        piece = os.read(STDIN, PIECE)
        try:
            await submission.feed(piece, end=not piece, timeout_s=PATIENCE_S)
        except Conflict:
            return


async def _readable() -> None:
    """Wait for something to read. No thread does: one that waits for a terminal would keep the command from ending."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(STDIN, ready.set)
    except PermissionError:  # a file, which is never waited for
        return
    try:
        await ready.wait()
    finally:
        loop.remove_reader(STDIN)
