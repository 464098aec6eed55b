"""A language in a distribution of its own, on an installation that holds runnerd's wheel and no file of this checkout."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nats
import pytest

from distributions import LANGUAGE, Site
from runnerd import Result, decode_result
from serving import Serving, serving
from test_wheel import run, wheel  # noqa: F401 - a fixture

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent / "third_party"
FOREIGN = {"PYTHONWARNINGS": "default"}
"""Warnings of tools that are not ours fail nothing."""
BROKEN = {
    "runnerd-a-import": "import surely_not_there",
    "runnerd-b-signature": "from runnerd import hookimpl\n@hookimpl\ndef register_languages(daemon): return []",
    "runnerd-c-misspelt": "from runnerd import hookimpl\n@hookimpl\ndef register_langauges(): return []",
    "runnerd-d-duplicate": LANGUAGE.format(code="py", aliases=""),
    "runnerd-e-exception": "from runnerd import hookimpl\n@hookimpl\ndef register_languages(): raise RuntimeError('in the hook')",
}


@pytest.fixture(scope="module")
def venv(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811 - the fixture
    """A fresh environment with runnerd's wheel and a third party's."""
    root = tmp_path_factory.mktemp("third-party")
    source = root / "source"
    shutil.copytree(HERE, source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    quiet = ("--quiet", "--disable-pip-version-check")
    assert run(sys.executable, "-m", "venv", root / "venv", cwd=root).returncode == 0
    pip = root / "venv/bin/pip"
    assert run(pip, "wheel", *quiet, "--no-deps", "--wheel-dir", root / "dist", source, cwd=root, environ=FOREIGN).returncode == 0
    (perl,) = (root / "dist").glob("runnerd_perl-*.whl")
    found = f"--find-links={wheel.parent}"
    assert run(pip, "install", *quiet, found, wheel, f"{perl}[test]", cwd=root, environ=FOREIGN).returncode == 0
    return root / "venv"


def plugins(venv: Path, cwd: Path) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    done = run(venv / "bin/runnerd", "plugins", "--json", cwd=cwd)
    return done.returncode, json.loads(done.stdout)


async def perl(daemon: Serving) -> Result:
    client = await nats.connect(daemon.said["nats"])
    try:
        answer = await client.request("rd.v1.run.acme.pl", json.dumps({"code": 'print "hi from $0\\n"; exit 3;'}).encode(), timeout=60)
        return decode_result(answer.data)
    finally:
        await client.close()


def test_nothing_of_the_checkout_is_importable(venv: Path, tmp_path: Path) -> None:
    code = (
        "import runnerd, runnerd_plugins, importlib.util as u; print(runnerd.__file__); print(u.find_spec('plugins'), u.find_spec('tests'))"
    )
    done = run(venv / "bin/python", "-c", code, cwd=tmp_path)
    assert done.stdout.splitlines()[0].startswith(str(venv))
    assert done.stdout.splitlines()[1] == "None None"


def test_is_listed(venv: Path, tmp_path: Path) -> None:
    code, found = plugins(venv, tmp_path)
    assert code == 0
    assert not found["broken"]
    (listed,) = [plugin for plugin in found["plugins"] if plugin["origin"]["distribution"] == "runnerd-perl"]
    assert listed["languages"] == ["pl"]
    assert listed["origin"]["version"] == "0.3"


async def test_runs_over_the_bus(venv: Path, tmp_path: Path) -> None:
    flags = ("isolation.minimum=process", "languages.pl.warm=1")
    async with serving(tmp_path, *flags, command=(venv / "bin/python", "-m", "runnerd")) as daemon:
        assert "pl" in daemon.said["languages"].split()
        result = await perl(daemon)
        assert (result.status, result.exit_code, result.stdout, result.lang) == ("failed", 3, "hi from main.pl\n", "pl")
        assert (await daemon.stop())[0] == 0


def test_passes_the_contract_by_tests_of_its_own(venv: Path, tmp_path: Path) -> None:
    """As its author runs them: beside its own pyproject.toml, with `runnerd.testing` of the wheel."""
    shutil.copytree(HERE, tmp_path / "perl", ignore=shutil.ignore_patterns("runnerd_perl.py"))
    done = run(venv / "bin/python", "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=tmp_path / "perl", environ=FOREIGN)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "9 passed" in done.stdout


@pytest.fixture
def broken(venv: Path) -> Iterator[None]:
    """Five more distributions, each broken in its own way."""
    (packages,) = venv.glob("lib/python*/site-packages")
    installed = Site(packages)
    for distribution, source in BROKEN.items():
        installed.install(distribution, source, version="6.6")
    yield
    for distribution in BROKEN:
        module = distribution.replace("-", "_")
        (packages / f"{module}.py").unlink()
        shutil.rmtree(packages / f"{module}-6.6.dist-info")


@pytest.mark.usefixtures("broken")
async def test_broken_ones_fall_alone(venv: Path, tmp_path: Path) -> None:
    code, found = plugins(venv, tmp_path)
    assert code == 1
    assert [one["origin"]["distribution"] for one in found["broken"]] == list(BROKEN)
    assert {one["origin"]["version"] for one in found["broken"]} == {"6.6"}
    assert all(one["traceback"].startswith("Traceback") for one in found["broken"])
    reasons = " ".join(one["reason"] for one in found["broken"])
    for text in ("surely_not_there", "{'daemon'}", "register_langauges", "'py' is taken by python (runnerd ", "RuntimeError: in the hook"):
        assert text in reasons

    command = (venv / "bin/python", "-m", "runnerd")
    async with serving(tmp_path, "isolation.minimum=process", command=command) as daemon:
        assert (await perl(daemon)).stdout == "hi from main.pl\n"
        assert (await daemon.stop())[0] == 0


@pytest.mark.usefixtures("broken")
def test_a_broken_one_that_is_needed_stops_the_daemon(venv: Path, tmp_path: Path) -> None:
    (tmp_path / "runnerd.toml").write_text("[languages.zig]\nwarm = 1\n")
    done = run(venv / "bin/runnerd", "serve", cwd=tmp_path)
    assert done.returncode == 2
    assert "runnerd: runnerd.toml:1: there is no language 'zig'" in done.stderr
    assert "broken plugin, which may have what is missing: runnerd_e_exception (runnerd-e-exception 6.6): RuntimeError" in done.stderr
    assert "Traceback" not in done.stderr
