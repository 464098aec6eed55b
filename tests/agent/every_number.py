"""A program: call every system call number from 0 to 600 with zeros, each in a child, under the filter. Prints results.

A program of its own because it is small: it is forked six hundred times.
"""

import ctypes
import json
import os
import signal

from agent import linux, seccomp, syscalls

NOT_CALLED = {"exit", "exit_group", "rt_sigreturn", "fork", "vfork", "clone"}
"""End or double the process that calls them, with or without a filter."""
WAITING = {"pause", "select", "pselect6", "ppoll", "msgrcv"}
"""Wait for ever when called with zeros, msgrcv on the queue that msgget made."""
PROBES = {335, 336} if syscalls.MACHINE == "x86_64" else set()
"""uretprobe and uprobe: new kernels let them through every filter, and end a program that calls them by themselves."""
LAST = 600


def main() -> None:
    """Print the result by number: an errno, 0, or minus the signal that ended the child."""
    linux.unshare(linux.CLONE_NEWIPC | linux.CLONE_NEWNS | linux.CLONE_NEWUTS | linux.CLONE_NEWNET)
    call = ctypes.CDLL(None, use_errno=True).syscall
    zeros = [ctypes.c_long(0)] * 6
    names = {number: name for name, number in syscalls.numbers().items()}
    seccomp.Filter(seccomp.build()).install()
    results = {}
    for number in range(LAST + 1):
        name = names.get(number, "")
        if name in NOT_CALLED or number in PROBES:
            continue
        pid = os.fork()
        if pid == 0:
            code = 255
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.05 if name in WAITING else 30)
                code = ctypes.get_errno() if call(ctypes.c_long(number), *zeros) == -1 else 0
            finally:
                os._exit(code)
        results[number] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    print(json.dumps(results))


if __name__ == "__main__":
    main()
