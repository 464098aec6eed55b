"""Bringing the agent into a pod whose image does not have it: its interpreter, its libraries, its archive."""

from __future__ import annotations

import os
import shutil
import sys


def copy(target: str) -> None:
    """Copy the directory that the agent's archive lies in to `target`, which is there and empty."""
    shutil.copytree(os.path.dirname(os.path.abspath(sys.argv[0])), target, symlinks=True, dirs_exist_ok=True)
