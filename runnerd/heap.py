"""Memory of a daemon: large buffers come and go with every snapshot and file, and fresh memory is slow to get; objects stay."""

import ctypes
import gc
import os

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # see mallopt(3)
LARGE_BYTES = 4 << 20
"""From this size on a buffer is memory of its own, that goes back to the system at once."""
SPARE_BYTES = 16 << 20
"""So much that is free at the heap's end stays with the process."""
NEW_OBJECTS = 10_000
"""So many new containers until the collector looks at them; Python's own bound is 700."""


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


def keep_objects() -> None:
    """Have the garbage collector leave alone what there is now, which stays until the daemon ends, and look for more of it less often.

    Jobs make few cycles of objects: with Python's own bounds a twentieth of a small job's time went into looking for them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, 10, 10)
