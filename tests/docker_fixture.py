"""Whether servers can be had in containers."""

import shutil
import subprocess
from functools import cache


@cache
def engine() -> bool:
    """Whether a Docker engine runs here, so that testcontainers can start what is no package of this machine's."""
    return shutil.which("docker") is not None and subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0
