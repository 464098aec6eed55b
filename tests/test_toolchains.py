import os
from pathlib import Path

import pytest

from fake_executor import wait_until
from runnerd.spec import Install, Language
from runnerd.toolchains import PATH, Toolchains


class Machine:
    """A directory that stands for /usr, with programs that the test writes."""

    def __init__(self, root: Path) -> None:
        self.root = root / "usr"
        self.bin = self.root / "bin"
        self.modules = self.root / "lib" / "node_modules"
        self.modules.mkdir(parents=True)
        self.bin.mkdir()

    def program(self, name: str, *lines: str) -> Path:
        path = self.bin / name
        path.write_text("\n".join(("#!/bin/sh", *lines, "")))
        path.chmod(0o755)
        return path

    def toolchains(self, timeout_s: float = 20.0) -> Toolchains:
        return Toolchains(timeout_s=timeout_s, path=f"{self.bin}:/usr/bin:/bin", roots=(str(self.root),), npm=(str(self.modules),))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def language(**fields: object) -> Language:
    data = {
        "code": "zig",
        "name": "Zig",
        "filename": "main.zig",
        "compile": ("zigc", "-o", "{tmp}/main", "{file}"),
        "run": ("{tmp}/main",),
        "image": "zig",
        "version": ("zigc", "--version"),
        "install": Install(debian=("zig", "libc6-dev")),
        "hello": "hi",
    }
    return Language(**{**data, **fields})  # type: ignore[arg-type]


async def test_version_is_found(machine: Machine) -> None:
    machine.program("zigc", 'echo "Zig (Debian 1.2.3-4) 1.2.3"', "echo Copyright 2026")
    found = (await machine.toolchains().probe([language()]))["zig"]
    assert (found.present, found.version, found.problem, found.install) == (True, "1.2.3", "", "")


async def test_version_may_be_on_standard_error_and_no_number(machine: Machine) -> None:
    machine.program("zigc", "echo nightly >&2", "echo of today >&2")
    assert (await machine.toolchains().probe([language()]))["zig"].version == "nightly"


async def test_program_sees_what_a_sandbox_would_see(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "1")
    machine.program("zigc", 'echo "9.$(env | grep -c SECRET) $HOME $LEVEL"')
    found = (await machine.toolchains().probe([language(env={"LEVEL": "3"}, version=("zigc",))]))["zig"]
    assert found.version == "9.0"


async def test_missing_program_comes_with_the_command_that_installs_it(machine: Machine) -> None:
    found = (await machine.toolchains().probe([language()]))["zig"]
    assert not found.present
    assert found.version == ""
    assert found.problem.startswith("zigc: not found in ")
    assert found.install == "apt-get install --yes --no-install-recommends zig libc6-dev"


async def test_every_program_of_the_language_is_looked_for(machine: Machine) -> None:
    machine.program("zigc", "echo 1.0")
    found = (await machine.toolchains().probe([language(run=("zigvm", "{file}"))]))["zig"]
    assert found.problem.startswith("zigvm: not found")


async def test_npm_packages_are_looked_for(machine: Machine) -> None:
    machine.program("zigc", "echo 1.0")
    zig = language(install=Install(debian=("nodejs", "npm"), npm=("zig@7", "@types/zig@1.2")))
    (machine.modules / "zig").mkdir()
    found = (await machine.toolchains().probe([zig]))["zig"]
    assert found.problem.startswith("npm package @types/zig: not found in ")
    assert found.install.endswith("npm install --global --prefix /usr/local zig@7 @types/zig@1.2")
    machine.program("npm")
    assert (await machine.toolchains().probe([zig]))["zig"].install == "npm install --global --prefix /usr/local zig@7 @types/zig@1.2"
    (machine.modules / "@types" / "zig").mkdir(parents=True)
    assert (await machine.toolchains().probe([zig]))["zig"].present


async def test_what_sandboxes_do_not_see_is_not_there(machine: Machine, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    machine.program("zigc", "echo 1.0").rename(home / "zigc")
    (machine.bin / "zigc").symlink_to(home / "zigc")
    found = (await machine.toolchains().probe([language()]))["zig"]
    assert found.problem == f"zigc: {machine.bin / 'zigc'} leads to {home / 'zigc'}, which sandboxes don't see: install it below /usr"
    assert (await machine.toolchains().probe([language(paths=(f"{tmp_path}/ho*",))]))["zig"].present


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["echo no licence >&2", "exit 4"], "zigc --version: ended with 4: no licence"),
        (["kill -9 $$"], "zigc --version: ended with -9: "),
    ],
)
async def test_broken_program(machine: Machine, lines: list[str], problem: str) -> None:
    machine.program("zigc", *lines)
    assert (await machine.toolchains().probe([language()]))["zig"].problem == problem


async def test_program_that_is_no_program(machine: Machine) -> None:
    path = machine.program("zigc")
    path.write_bytes(b"\x7fELF and no more")
    assert "Exec format error" in (await machine.toolchains().probe([language()]))["zig"].problem


@pytest.mark.parametrize("line", ["sleep 1000 & echo $! > pid; wait", "echo $$ > pid; while :; do echo 1.0; done"])
async def test_program_that_never_ends_is_ended(machine: Machine, line: str) -> None:
    pid_file = machine.root / "pid"
    machine.program("zigc", line.replace("> pid", f"> {pid_file}"))
    found = (await machine.toolchains(timeout_s=0.5).probe([language()]))["zig"]
    assert found.problem == "zigc --version: no answer within 0.5 s"
    if pid_file.exists():
        pid = pid_file.read_text().strip()
        await wait_until(lambda: not alive(pid), "the program and what it started are gone")


def alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_what_was_found_is_remembered_until_it_changes(machine: Machine) -> None:
    calls = machine.root / "calls"
    path = machine.program("zigc", f"echo 1 >> {calls}", "echo 1.0")
    toolchains = machine.toolchains()
    for _ in range(3):
        assert (await toolchains.probe([language()]))["zig"].version == "1.0"
    assert calls.read_text() == "1\n"
    machine.program("zigc", "echo 2.0")
    os.utime(path, ns=(1, 1))
    assert (await toolchains.probe([language()]))["zig"].version == "2.0"


async def test_what_was_missing_is_looked_for_again(machine: Machine) -> None:
    toolchains = machine.toolchains()
    assert not (await toolchains.probe([language()]))["zig"].present
    machine.program("zigc", "echo 1.0")
    assert (await toolchains.probe([language()]))["zig"].present


async def test_languages_keep_their_order(machine: Machine) -> None:
    machine.program("zigc", "echo 1.0")
    codes = [f"zig{i}" for i in range(20)]
    found = await machine.toolchains().probe(language(code=code) for code in codes)
    assert list(found) == codes
    assert {toolchain.version for toolchain in found.values()} == {"1.0"}


async def test_this_machine_has_bash() -> None:
    bash = language(code="bash", compile=None, run=("bash", "{file}"), version=("bash", "--version"))
    found = (await Toolchains().probe([bash]))["bash"]
    assert found.present, f"no bash in {PATH}"
