"""Forks of our own skip hooks that only repair locks; a job's own forks run them."""

import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]

PROGRAM = """
import os, sys
sys.path.insert(0, sys.argv[1])
from agent import forks

with forks.skipping_hooks():
    import threading, logging, random

def child_of(fork):
    read, write = os.pipe()
    pid = fork()
    if pid == 0:
        lock = threading._active_limbo_lock is before
        os.write(write, f"{lock} {random.random()}".encode())
        os._exit(0)
    os.waitpid(pid, 0)
    return os.read(read, 100).decode().split()

before = threading._active_limbo_lock
ours, usual = child_of(forks.fork), child_of(os.fork)
mine = str(random.random())
print(ours[0], usual[0], len({ours[1], usual[1], mine}))
first = []
early = child_of(lambda: forks.fork(lambda: random.seed(1) or first.append(1)))  # our seed is undone by the hook after it
print(early[0], early[1] == str(random.Random(1).random()), first, child_of(forks.fork)[0])
"""


def test_locks_are_left_alone_and_random_numbers_renewed() -> None:
    code = textwrap.dedent(PROGRAM)
    done = subprocess.run([sys.executable, "-I", "-c", code, str(ROOT / "runnerd")], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == ["True False 3", "True False [] True"]
