"""The wheel as people install it: in a virtual environment of its own, from an empty directory, no file of the checkout importable."""

import os
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import msgspec
import pytest

from runnerd import __version__

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
NOT_SOURCE = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "out")
NO_PORTS = ("--set", "ingress.nats.listen=127.0.0.1:0", "--set", "ingress.http.port=0")


def run(*argv: str | Path, cwd: Path, environ: dict[str, str] | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program to its end; what it wrote is shown where a test fails."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(cwd), "PYTHONWARNINGS": "error", **(environ or {})}
    for name in ("PIP_CACHE_DIR", "PIP_INDEX_URL", "LANG"):
        if name in os.environ:
            environ.setdefault(name, os.environ[name])
    done = subprocess.run(list(map(str, argv)), cwd=cwd, env=environ, input=stdin, capture_output=True, text=True, timeout=600, check=False)
    print(f"$ {' '.join(map(str, argv))}\n{done.stdout}{done.stderr}-> {done.returncode}")
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing of an older build gets in."""
    source = tmp_path_factory.mktemp("source") / "runnerd"
    shutil.copytree(ROOT, source, ignore=NOT_SOURCE)
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "--wheel-dir", "dist", ".")
    assert run(*pip, cwd=source, environ={"PYTHONWARNINGS": "default"}).returncode == 0
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def runnerd(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program `runnerd`, installed from the wheel."""
    venv = tmp_path_factory.mktemp("installed")
    environ = {"PYTHONWARNINGS": "default"}
    assert run(sys.executable, "-m", "venv", venv, cwd=venv).returncode == 0
    install = (venv / "bin/pip", "install", "--quiet", "--disable-pip-version-check", wheel)
    assert run(*install, cwd=venv, environ=environ).returncode == 0
    return venv / "bin/runnerd"


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """An empty working directory, beside a state directory."""
    directory = tmp_path / "empty"
    directory.mkdir()
    return directory


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """State of its own, and whatever isolation can be had: that the wheel is whole is asked here, not what the kernel can do."""
    return {"RUNNERD_STATE_DIR": str(tmp_path / "state"), "RUNNERD_ISOLATION_MINIMUM": "process"}


def test_wheel_holds_the_two_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"runnerd", "runnerd_plugins"}
    assert "runnerd/py.typed" in names
    shipped = {f"runnerd/{path.relative_to(ROOT / 'runnerd')}" for path in (ROOT / "runnerd").rglob("*.py")}
    shipped |= {f"runnerd_plugins/{path.relative_to(ROOT / 'plugins')}" for path in (ROOT / "plugins").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == shipped


def test_version(runnerd: Path, empty: Path) -> None:
    done = run(runnerd, "--version", cwd=empty)
    assert done.returncode == 0
    assert done.stdout.split() == ["runnerd", __version__]
    assert list(empty.iterdir()) == []


def test_plugins(runnerd: Path, empty: Path) -> None:
    done = run(runnerd, "plugins", "--json", cwd=empty)
    assert done.returncode == 0
    assert not msgspec.json.decode(done.stdout).get("broken")


def test_check(runnerd: Path, empty: Path, environ: dict[str, str]) -> None:
    assert run(runnerd, "check", *NO_PORTS, cwd=empty, environ=environ).returncode == 0


def test_run(runnerd: Path, empty: Path, environ: dict[str, str]) -> None:
    """No daemon runs here: `run` starts one, and the program's exit code is its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        environ |= {"NATS_LISTEN": f"127.0.0.1:{free.getsockname()[1]}", "API_PORT": "0"}
    program = "import sys\nprint(input())\nsys.exit(3)\n"
    (empty / "hi.py").write_text(program)
    done = run(runnerd, "run", "hi.py", "--stdin", "-", cwd=empty, environ=environ, stdin="hi\n")
    assert (done.returncode, done.stdout) == (3, "hi\n")


def test_demo(runnerd: Path, empty: Path, environ: dict[str, str]) -> None:
    done = run(runnerd, "demo", "--once", *NO_PORTS, cwd=empty, environ=environ)
    assert done.returncode == 0
    assert "Python" in done.stdout
