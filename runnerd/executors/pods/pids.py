"""How many processes the kubelet lets a pod have, found by trying: nothing in a pod says it, and the API tells only administrators.

The agent counts what a job starts, and ends it over its limit; a job that starts more between two counts is held by the
kubelet's `podPidsLimit`, where it is set, and else by the node's own end.
"""

import msgspec

from ...job import Job, Limits, Result
from ...spec import Language
from .executor import PodExecutor
from .manifest import AGENT

MOST = 4096
"""Threads that are tried."""
PROBE = f"""
import _thread, os
_thread.stack_size(65536)
lock = _thread.allocate_lock()
lock.acquire()
count = 0
try:
    while count < {MOST}:
        _thread.start_new_thread(lock.acquire, ())
        count += 1
except RuntimeError:
    pass
print(count, flush=True)
os._exit(0)
"""
LIMITS = Limits(
    wall_s=30,
    cpu_s=30,
    memory_bytes=1 << 40,  # the pod's own limit holds
    processes=2 * MOST,
    open_files=64,
    output_bytes=4096,
    file_bytes=1,
    files=1,
)


async def process_limit(executor: PodExecutor, language: Language) -> int | None:
    """About how many processes and threads a pod of the language may have at once; `MOST` where more were not tried.

    None where it can't be told. Raises SandboxError and SandboxLost.
    """
    probe = msgspec.structs.replace(
        language, filename="main.py", filename_pattern=None, compile=None, run=(f"{AGENT}/bin/python3", "-I", "{file}"), warm=1, warmup=None
    )
    async with executor.sandbox(probe) as sandbox:
        job = Job(id="processes", tenant="runnerd", lang=language.code, code=PROBE)
        *_, result = [event async for event in sandbox.run(job, probe, LIMITS)]
    return int(result.stdout) if isinstance(result, Result) and result.stdout.strip().isdigit() else None
