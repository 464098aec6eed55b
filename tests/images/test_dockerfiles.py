"""What all Dockerfiles have in common, without building them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import bundled_languages

ROOT = Path(__file__).parents[2]
FILES = sorted(ROOT.glob("images/*/Dockerfile"))
HADOLINT = shutil.which("hadolint", path=Path(sys.executable).parent)


@pytest.mark.skipif(HADOLINT is None, reason="hadolint has no wheel for this machine")
def test_linted() -> None:
    done = subprocess.run([HADOLINT, "--no-color", *FILES], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.parent.name)
def test_ends_as_nobody(file: Path) -> None:
    last = re.split(r"^FROM ", file.read_text(), flags=re.MULTILINE)[-1]
    assert re.findall(r"^USER (.*)$", last, re.MULTILINE)[-1] == "65532:65532"
    assert "org.opencontainers.image.title=" in last


def test_every_language_has_its_image() -> None:
    images = {file.parent.name for file in FILES}
    assert {language.image for language in bundled_languages().values()} == images - {"base", "agent", "daemon"}


@pytest.mark.parametrize("language", bundled_languages().values(), ids=lambda language: language.code)
def test_agent_comes_last(language) -> None:
    """A change of the agent costs a copy, not a tool chain."""
    text = (ROOT / "images" / language.image / "Dockerfile").read_text()
    assert re.search(r"^COPY --from=agent /opt/runnerd /opt/runnerd\nUSER 65532:65532\nLABEL ", text, re.MULTILINE)


def test_order_of_builds() -> None:
    done = subprocess.run([ROOT / "images/build", "nonsense"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no such image: nonsense" in done.stderr


def test_daemon_has_all_extras_but_those_for_development() -> None:
    command = [sys.executable, ROOT / "images/daemon/requirements", ROOT / "pyproject.toml"]
    needs = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "kubernetes-asyncio" in needs
    assert "redis" in needs
    assert "pytest" not in needs
