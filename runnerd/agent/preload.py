"""What the master has imported before any job: the profiles `none`, `std` and `data`."""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

STD = (
    "argparse", "ast", "base64", "bisect", "calendar", "collections", "contextlib", "copy", "csv", "dataclasses", "datetime",
    "decimal", "enum", "fractions", "functools", "glob", "hashlib", "heapq", "inspect", "io", "itertools", "json", "logging",
    "math", "operator", "os", "pathlib", "pickle", "pprint", "queue", "random", "re", "secrets", "shutil", "statistics",
    "string", "struct", "subprocess", "tempfile", "textwrap", "threading", "time", "traceback", "typing", "unicodedata", "uuid",
    "zlib",
)  # fmt: skip
DATA = ("numpy", "pandas", "matplotlib.pyplot")
PROFILES = {"none": (), "std": STD, "data": STD + DATA}
# One thread per library: a fork copies only the thread that calls it, and the pool of another would hang in the child.
ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def standard(profile: str) -> None:
    """Import the profile's modules of the standard library.

    Ahead of whatever else is imported: what jobs use lies close together then, and their forks copy fewer pages.
    """
    for name in PROFILES[profile]:
        if name in STD:
            importlib.import_module(name)
    logging = sys.modules.get("logging")
    handlers = getattr(logging, "_handlerList", None)
    if logging is not None and handlers is not None:
        atexit.unregister(logging.shutdown)
        atexit.register(_shut, logging.shutdown, handlers, list(handlers))


def load(profile: str, tmp: str, once: bool) -> None:
    """Import the profile's modules; `tmp` is where they may write. Forked `once`, what is garbage by then costs less than to look for it.

    Raises ImportError, and RuntimeError where one of them started a thread.
    """
    for name in ONE_THREAD:
        os.environ[name] = "1"
    os.environ.update(MPLBACKEND="Agg", MPLCONFIGDIR=tmp + "/mpl")
    for name in PROFILES[profile]:
        importlib.import_module(name)
    if os.path.isdir("/proc/self/task") and len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError(f"preloading {profile!r} started threads, which a fork would lose")
    if not once:
        gc.collect()
    gc.freeze()
    gc.disable()


def _shut(shutdown: Callable[[], None], handlers: list[Any], known: list[Any]) -> None:
    """At a program's end: the way through the locks of `logging` is long, and most programs have made no handler."""
    if handlers != known:
        shutdown()


def after_fork() -> None:
    """Give a forked child random numbers of its own; the standard library's own generators see to themselves."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
