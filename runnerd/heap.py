"""The C library's heap: large buffers come and go with every snapshot and file, and fresh memory is slow to get."""

import ctypes
import os

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # see mallopt(3)
LARGE_BYTES = 4 << 20
"""From this size on a buffer is memory of its own, that goes back to the system at once."""
SPARE_BYTES = 16 << 20
"""So much that is free at the heap's end stays with the process."""


def keep_buffers() -> None:
    """Use freed memory again, up to SPARE_BYTES, before any goes back to the system. Does nothing without glibc.

    Without it each buffer of a megabyte costs its 256 pages anew, more than copying it does. What the environment sets, stands.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "GLIBC_TUNABLES" in os.environ:
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(MMAP_THRESHOLD, LARGE_BYTES)
    mallopt(TRIM_THRESHOLD, SPARE_BYTES)
