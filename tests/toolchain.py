"""Tests that need a tool chain: skipped where it is missing, with the command that installs it; failed in CI."""

import os

import anyio
import pytest

from runnerd.spec import Language
from runnerd.toolchains import Toolchains

_TOOLCHAINS = Toolchains()


def require(language: Language) -> None:
    """Skip the test, or fail it in CI, unless this machine can run jobs of the language. Not for use in a running event loop."""
    found = anyio.run(_TOOLCHAINS.probe, (language,))[language.code]
    if found.present:
        return
    message = f"{language.name}: {found.problem}; install it with: {found.install or 'no package is known'}"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)
