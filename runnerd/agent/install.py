"""Bringing the agent into a pod whose image does not have it: its interpreter, its libraries, its archive."""

from __future__ import annotations

import os
import shutil
import sys


def copy(target: str) -> None:
    """Copy what is in the agent's directory into `target`, which is there, is empty, and may belong to somebody else."""
    source = os.path.dirname(os.path.abspath(sys.argv[0]))
    for entry in os.scandir(source):
        if entry.is_dir(follow_symlinks=False):
            shutil.copytree(entry.path, os.path.join(target, entry.name), symlinks=True)
        else:
            shutil.copy2(entry.path, target, follow_symlinks=False)
