"""What agent, master and cells say to each other: all that the agent has of the other two, which it never loads itself.

And how often it shows its executor that it lives.
"""

from __future__ import annotations

import array
import json
import socket
import struct

CONTROL = 3
"""Descriptor of the master's control socket."""
MODULES = "modules"
"""The directory beside the agent's archive with what snapshots need, where the interpreter lacks it."""
BEAT_S = 1.0
"""Seconds between two signs of life, on a machine of its executor's: empty lines on its standard output."""
KILLED = struct.Struct("!cQQ")
ENDED = struct.Struct("!ciQQ")
WATCHED = struct.Struct("!cQQ")
"""Messages from and to a cell, see cell.py."""


def request_cell(control: socket.socket, slot: int, watch: bool, fds: list[int]) -> None:
    """Ask the master for a cell, with its control socket and the cgroup files to enter."""
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
    control.sendmsg([json.dumps({"slot": slot, "watch": watch}).encode()], ancillary)
