"""Rules of the code base that no other tool checks. A rule's exceptions are listed here, and the lists may only shrink."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHIPPED = ("runnerd", "plugins")
ALL = (*SHIPPED, "tests", "bench", "docs")

LONGEST = 400
LONGER: dict[str, int] = {}
"""Files that may be longer, and how long each is. The number may fall, never rise."""

NOBODYS_JOB = re.compile(r"(Manager|Helper|Utils?|Processor|Orchestrator|Handler)$")
"""Endings of class names that don't say what the class does."""
NO_MODULES = {"utils", "util", "helpers", "helper", "common", "core", "misc", "manager", "models", "services"}


def python_files(*tops: str) -> Iterator[Path]:
    for top in tops:
        yield from sorted(path for path in (ROOT / top).rglob("*.py") if "__pycache__" not in path.parts)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def parsed(*tops: str) -> Iterator[tuple[str, ast.Module]]:
    for path in python_files(*tops):
        yield name_of(path), ast.parse(path.read_text(), name_of(path))


def pyproject() -> dict[str, dict[str, dict[str, object]]]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_no_file_is_too_long() -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in python_files(*ALL)}
    too_long = {name: length for name, length in lengths.items() if length > LONGER.get(name, LONGEST)}
    assert not too_long, f"longer than {LONGEST} lines: split by noun"
    stale = {name for name in LONGER if lengths.get(name, 0) <= LONGEST or lengths[name] < LONGER[name]}
    assert not stale, "shorter by now: lower or remove their numbers in LONGER"


def test_plugin_files_are_the_entry_points() -> None:
    files = set()
    for path in python_files("plugins"):
        kind, *rest = path.relative_to(ROOT / "plugins").with_suffix("").parts
        if rest and rest[0] != "__init__":
            files.add(f"runnerd_plugins.{kind}.{rest[0]}")
    written = pyproject()["project"]["entry-points"]["runnerd"]
    assert set(written.values()) == files, "pyproject.toml names other modules than plugins/ holds"
    ours = {point.name: point.value for point in entry_points(group="runnerd") if point.value.startswith("runnerd_plugins.")}
    assert ours == written, "the installed entry points are older than pyproject.toml: pip install -e ."


def test_every_package_is_in_the_wheel() -> None:
    packages = set()
    for top, name in (("runnerd", "runnerd"), ("plugins", "runnerd_plugins")):
        for path in (ROOT / top).rglob("__init__.py"):
            packages.add(".".join((name, *path.parent.relative_to(ROOT / top).parts)))
    assert set(pyproject()["tool"]["setuptools"]["packages"]) == packages  # type: ignore[call-overload]


def test_import_name_of_plugins_occurs_only_in_entry_points() -> None:
    users = [name_of(path) for path in python_files(*SHIPPED, "bench", "docs") if "runnerd_plugins" in path.read_text()]
    assert users == []


@pytest.mark.parametrize("path", list(python_files("runnerd/agent")), ids=name_of)
def test_agent_needs_only_the_standard_library_of_python_3_9(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 9))
    for node in ast.walk(tree):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= 1, f"line {node.lineno}: imports from outside the agent"
            modules = [node.module or ""] if node.level == 0 else []
        foreign = [module for module in modules if module.partition(".")[0] not in sys.stdlib_module_names]
        assert not foreign, f"line {node.lineno}: {foreign} is not in the standard library"


def test_names_say_what_things_do() -> None:
    modules = [name_of(path) for path in python_files(*SHIPPED) if path.stem in NO_MODULES]
    classes = [
        f"{name}: {node.name}"
        for name, tree in parsed(*SHIPPED)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and NOBODYS_JOB.search(node.name)
    ]
    assert modules + classes == []


def test_every_task_has_a_parent() -> None:
    orphans = []
    for name, tree in parsed(*SHIPPED):
        if name == "runnerd/testing/hosting.py":
            continue  # pytest enters and leaves a fixture in two tasks: the one in between can be nobody's child
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute) or node.attr not in ("create_task", "ensure_future"):
                continue
            owner = ast.unparse(node.value)
            if owner == "asyncio" or owner.endswith(("loop", "loop()")):
                orphans.append(f"{name}:{node.lineno}")
    assert orphans == [], "use a TaskGroup"


def test_broad_handlers_raise_again_or_carry_their_reason() -> None:
    bare = []
    for path in python_files(*SHIPPED):
        lines = path.read_text().splitlines()
        for node in ast.walk(ast.parse("\n".join(lines))):
            if not isinstance(node, ast.ExceptHandler):
                continue
            broad = node.type is None or re.search(r"\b(Base)?Exception\b", ast.unparse(node.type))
            raises_again = isinstance(node.body[-1], ast.Raise)
            if broad and not raises_again and not re.search(r"  # (noqa: BLE001 - )?\w", lines[node.lineno - 1]):
                bare.append(f"{name_of(path)}:{node.lineno}")
    assert bare == [], "catch what you expect, or say on the line why not: `# noqa: BLE001 - reason`"


def test_exceptions_to_the_rules_of_tools_name_the_rule() -> None:
    blanket = [
        f"{name_of(path)}:{number}"
        for path in python_files(*SHIPPED)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"#\s*(noqa(?!:)|type:\s*ignore(?!\[))", line)
    ]
    assert blanket == []


UNSAFE = {"pickle.load", "pickle.loads", "marshal.load", "marshal.loads", "os.system"}


def test_unsafe_calls_are_absent() -> None:
    """No shell, no preexec_fn (slow, and unsafe beside threads), nothing that unpickles what a sandbox sent."""
    found = []
    for name, tree in parsed(*SHIPPED):
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            keywords = {keyword.arg for keyword in node.keywords}
            if ast.unparse(node.func) in UNSAFE or keywords & {"shell", "preexec_fn"}:
                found.append(f"{name}:{node.lineno}")
    assert found == []


def test_changelog_tells_what_is_not_yet_released() -> None:
    first = next(line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
    assert re.fullmatch(r"## (Unreleased|\d+\.\d+\.\d+ - \d{4}-\d\d-\d\d)", first)


def test_license_is_there() -> None:
    assert "Apache License" in (ROOT / "LICENSE").read_text()
