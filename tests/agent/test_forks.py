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

order = []
with forks.skipping_hooks():
    os.register_at_fork(after_in_child=lambda: order.append("hook"))

def order_in_child(fork):
    read, write = os.pipe()
    pid = fork()
    if pid == 0:
        os.write(write, " ".join(order).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    return os.read(read, 100).decode()

print(order_in_child(lambda: forks.fork(lambda: order.append("first"))), "|", order_in_child(forks.fork), "|", order)
"""


def test_locks_are_left_alone_and_random_numbers_renewed() -> None:
    code = textwrap.dedent(PROGRAM)
    done = subprocess.run([sys.executable, "-I", "-c", code, str(ROOT / "runnerd")], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == ["True False 3", "first hook | hook | []"]
