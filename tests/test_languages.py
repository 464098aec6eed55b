"""The bundled languages as data, and what `Language` makes of it."""

import re
import subprocess
from pathlib import Path

import pytest

from runnerd.limits import LimitSettings, allowed
from runnerd.plugins import OWN, find_plugins
from runnerd.spec import Language

ROOT = Path(__file__).parent.parent
PLUGINS = find_plugins()
CODES = [code for plugin in PLUGINS.found if plugin.origin.distribution == OWN for code in plugin.languages]
LANGUAGES = {code: PLUGINS.languages[code] for code in CODES}

SHELLS = {"sh", "bash", "dash", "zsh", "env", "xargs", "eval"}
# Names and multipliers (time, memory) of the source system; bash is newer, and compiling C++ takes more than it gave.
IMAGES = {
    "py": ("python", 1, 1),
    "js": ("javascript", 1, 1),
    "ts": ("typescript", 2, 1),
    "go": ("go", 1.5, 1.2),
    "java": ("java", 2, 1.5),
    "c": ("c-cpp", 1.5, 1),
    "cpp": ("c-cpp", 1.5, 1.5),
    "php": ("php", 1, 1),
    "rs": ("rust", 3, 1.5),
    "r": ("r", 1.5, 1.2),
    "f90": ("fortran", 2, 1),
    "d": ("d", 2, 1.2),
    "bash": ("bash", 1, 1),
}
NAMES = {
    "python": "py",
    "python3": "py",
    "javascript": "js",
    "node": "js",
    "typescript": "ts",
    "golang": "go",
    "c++": "cpp",
    "rust": "rs",
    "fortran": "f90",
    "dlang": "d",
    "sh": "bash",
    "shell": "bash",
}
each = pytest.mark.parametrize("language", LANGUAGES.values(), ids=LANGUAGES.keys())


def test_all_thirteen_are_there() -> None:
    assert not [str(broken) for broken in PLUGINS.broken if ".languages." in broken.origin.module]
    assert sorted(CODES) == sorted(IMAGES)


def test_names_are_unique() -> None:
    names = [name.lower() for language in LANGUAGES.values() for name in (language.code, *language.aliases)]
    assert len(set(names)) == len(names)
    suffixes = [suffix for language in LANGUAGES.values() for suffix in language.suffixes]
    assert len(set(suffixes)) == len(suffixes)


@pytest.mark.parametrize(("alias", "code"), NAMES.items())
def test_usual_names_are_aliases(alias: str, code: str) -> None:
    assert alias in LANGUAGES[code].aliases


@each
def test_data_is_complete(language: Language) -> None:
    assert (language.image, language.wall_multiplier, language.memory_multiplier) == IMAGES[language.code]
    assert "hi" in language.hello
    assert language.hello.endswith("\n")
    assert language.install.debian
    assert language.filename.endswith(language.suffixes)
    assert language.saved_as(language.hello) == language.filename


@each
def test_multipliers_are_applied(language: Language) -> None:
    settings = LimitSettings(wall_s=10, memory_bytes=100 << 20)
    limits = allowed(language, settings)
    assert limits.wall_s == 10 * language.wall_multiplier
    assert limits.memory_bytes == int((100 << 20) * language.memory_multiplier)


@each
def test_nothing_goes_through_a_shell(language: Language) -> None:
    for command in (language.compile or (), language.run, language.version):
        if language.code != "bash":
            assert not SHELLS & {Path(part).name for part in command}
        assert "-c" not in command


@each
def test_file_names_are_never_options(language: Language) -> None:
    for command in filter(None, (language.compile, language.run)):
        for name in ("-rf", "@list", "--version", "$(id)", "a b;c", "`id`"):
            argv = language.argv(command, file=name, code="", tmp="/tmp", memory_bytes=1 << 29)
            assert len(argv) == len(command)
            for given, filled in zip(command, argv, strict=True):
                assert given != "{file}" or filled in (name, "./" + name)
                assert given != "{file}" or filled[0] not in "-@"
                assert not re.search(r"\{\w+\}", filled)


def test_only_placeholders_are_replaced() -> None:
    language = Language(
        code="awk", name="AWK", filename="main.awk", run=("awk", "-f", "{file}"), image="awk", version=("awk",), hello="", main_patterns=()
    )
    command = ("{file}", "{stem}", "{main}", "{tmp}/x", "{memory_bytes}", "{print $1}", "{", "{}", "{other}")
    assert language.argv(command, file="sub/-x.tar.gz", code="", tmp="/t", memory_bytes=7) == (
        *("sub/-x.tar.gz", "sub/-x.tar", "-x.tar", "/t/x", "7"),
        *("{print $1}", "{", "{}", "{other}"),
    )
    hostile = language.argv(("{file}", "{stem}"), file="{tmp}.c", code="", tmp="/t", memory_bytes=7)
    assert hostile == ("./{tmp}.c", "{tmp}"), "what was filled in is not looked at again"


JAVA = [
    ("public class Solution {\n public static void main(String[] a) {}\n}", "Solution.java", "Solution"),
    ("class Solution {\n    public static void main(String[] a) {}\n}", "Main.java", "Solution"),
    ("package org.example;\n\npublic class App {\n  public static void main(String... a) {}\n}", "App.java", "org.example.App"),
    ("// a comment\n/* package no; ** */\npackage a.b;\nclass App { static void main(String[] a) {} }", "Main.java", "a.b.App"),
    ("class Node {\n int x;\n}\n\npublic final class Tree extends Node {\n static void main(String[] a) {}\n}", "Tree.java", "Tree"),
    ("public class Shape {\n}\n\nclass Runner\n{\n  public static void main(String[] a) {}\n}", "Shape.java", "Runner"),
    ("public class Outer {\n  static class Inner {}\n  public static void main(String[] a) {}\n}", "Outer.java", "Outer"),
    ("class A {\n  public static class B {}\n}\npublic class C {\n  public static void main(String[] a) {}\n}", "C.java", "C"),
    ("public record Point(int x) {\n  public static void main(String[] a) {}\n}", "Point.java", "Point"),
    ("public interface Go<T> {\n  static void main(String[] a) {}\n}", "Go.java", "Go"),
    ("    public class Indented {\n      public static void main(String[] a) {}\n    }", "Indented.java", "Indented"),
    ("import java.util.*;\n\npublic sealed abstract class S permits T {\n void main() {}\n}", "S.java", "S"),
    ("/* a\npublic class of its own */\nclass X { static void main(String[] a) {} }", "Main.java", "X"),
    ("", "Main.java", "Main"),
]


@pytest.mark.parametrize(("code", "file", "main"), JAVA)
def test_java_is_named_after_its_classes(code: str, file: str, main: str) -> None:
    java = LANGUAGES["java"]
    assert java.saved_as(code) == file
    assert java.argv(("{main}",), file=file, code=code, tmp="/tmp", memory_bytes=1) == (main,)


HOSTILE = (
    "public ",
    "public class A\n",
    "class A {\n",
    "package a;\n",
    "/* ",
    "/**/",
    "void main",
    "void ",
    "\n",
    " ",
    "{",
    "class A{}\n\n",
)


@pytest.mark.parametrize("line", HOSTILE)
def test_java_names_are_found_in_linear_time(line: str) -> None:
    java = LANGUAGES["java"]
    code = line * (1_000_000 // len(line))
    java.argv(("{main}",), file=java.saved_as(code), code=code, tmp="/tmp", memory_bytes=1)


def test_script_installs_what_the_languages_name() -> None:
    script = (ROOT / ".ci" / "toolchains").read_text()
    for kind in ("debian", "npm"):
        listed = re.search(rf"^{kind}=\(([^)]*)\)$", script, re.MULTILINE)
        assert listed
        needed = {package for language in LANGUAGES.values() for package in getattr(language.install, kind)}
        assert listed[1].split() == sorted(needed, reverse=kind == "npm")
    assert subprocess.run(["bash", "-n", ROOT / ".ci" / "toolchains"], check=False).returncode == 0
