"""`agent.pyz agent OPTIONS` is the agent; it starts `agent.pyz master OPTIONS` itself. OPTIONS is JSON: see options.py.

`agent.pyz pod` is the agent of a pod, and `agent.pyz install DIRECTORY` copies what it consists of for such a pod.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Start what the first argument names."""
    from .options import Options  # noqa: PLC0415 - the master imports what it needs before it changes its root

    kind = sys.argv[1]
    if kind == "pod":
        from . import pod  # noqa: PLC0415

        pod.main()
        return
    if kind == "install":
        from . import install  # noqa: PLC0415

        install.copy(sys.argv[2])
        return
    options = Options.parse(sys.argv[2])
    if kind == "agent":
        from .server import Server  # noqa: PLC0415

        Server(options).run()
    elif kind == "master":
        from . import master  # noqa: PLC0415

        master.main(options)
    else:
        sys.exit(f"unknown part of the agent: {kind}")


if __name__ == "__main__":
    main()
