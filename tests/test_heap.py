"""Memory of a daemon: large buffers that were freed are used again, and what stays is left alone by the garbage collector."""

import os
import platform
import subprocess
import sys

import pytest

COUNTED = """
import resource
{}
def turn(): [bytearray(1 << 20) for _ in range(4)]
turn()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20): turn()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
KEPT = "from runnerd.heap import keep_buffers; keep_buffers()"


def faults(code: str, **environ: str) -> int:
    """Pages that 20 turns of four megabytes each had to get anew."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    return int(subprocess.run([sys.executable, "-c", COUNTED.format(code)], env=clean | environ, capture_output=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be asked")
def test_freed_buffers_are_used_again() -> None:
    fresh = faults("")
    assert fresh > 5_000, "else there is nothing to save"
    assert faults(KEPT) < fresh / 10
    assert faults(KEPT, MALLOC_TRIM_THRESHOLD_="131072", MALLOC_MMAP_THRESHOLD_="65536") > fresh / 2, "what the environment sets, stands"


def test_what_stays_is_left_alone_and_new_cycles_are_still_found() -> None:
    program = (
        "import gc, weakref\n"
        "from runnerd.heap import NEW_OBJECTS, keep_objects\n"
        "class Node: pass\n"
        "keep_objects()\n"
        "assert gc.get_freeze_count() > 1000, gc.get_freeze_count()\n"
        "node = Node(); node.me = node; gone = weakref.ref(node); del node\n"
        "kept = [[] for _ in range(2 * NEW_OBJECTS)]\n"
        "assert gone() is None\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
