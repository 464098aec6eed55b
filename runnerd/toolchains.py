"""Which tool chains this machine has: looked for where sandboxes will find them, asked for their version.

A program on somebody's own PATH, or in their home directory, does not exist for a job. So the search goes along the
PATH of the sandboxes, and what it finds must lie, links followed, in a directory that sandboxes see.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import anyio
from anyio.abc import Process
from msgspec import Struct

from .spec import Language

PATH = "/usr/local/bin:/usr/bin:/bin"
"""Where a sandbox looks for programs."""
ROOTS = ("/usr", "/bin", "/lib")
"""Directories of this machine that sandboxes see, whatever else a language's `paths` add."""
NPM_MODULES = ("/usr/local/lib/node_modules", "/usr/lib/node_modules", "/usr/share/nodejs")
NPM_INSTALL = ("npm", "install", "--global", "--prefix", "/usr/local")
APT_INSTALL = ("apt-get", "install", "--yes", "--no-install-recommends")

_MOST_BYTES = 1 << 16
_VERSION = re.compile(r"\d+(?:\.\d+)+")


class Toolchain(Struct, frozen=True, kw_only=True):
    """What this machine has of one language."""

    language: str
    """Its code."""
    version: str = ""
    """Empty where something is missing."""
    problem: str = ""
    """What is missing or broken, empty where nothing is."""
    install: str = ""
    """The command, for a shell, that mends it; empty where nothing is missing, or where the language names no packages."""

    @property
    def present(self) -> bool:
        """Whether jobs of this language can run here."""
        return not self.problem


class Toolchains:
    """Finds tool chains. What was found is remembered until one of its programs changes; what was missing is looked for again."""

    def __init__(
        self, *, timeout_s: float = 20.0, at_once: int = 4, path: str = PATH, roots: Iterable[str] = ROOTS, npm: Iterable[str] = NPM_MODULES
    ) -> None:
        """`timeout_s` bounds the answer of one program, `at_once` how many are asked together."""
        self._timeout_s = timeout_s
        self._limiter = anyio.CapacityLimiter(at_once)
        self._path = path
        self._roots = tuple(os.path.realpath(root) for root in roots)
        self._npm = tuple(Path(directory) for directory in npm)
        self._versions: dict[object, str] = {}

    async def probe(self, languages: Iterable[Language]) -> dict[str, Toolchain]:
        """Look for the tool chain of each language; the answer goes by the languages' codes, in their order."""
        languages = tuple(languages)
        found: dict[str, Toolchain] = {}

        async def probe(language: Language) -> None:
            found[language.code] = await self._probe(language)

        async with anyio.create_task_group() as tasks:
            for language in languages:
                tasks.start_soon(probe, language)
        return {language.code: found[language.code] for language in languages}

    async def _probe(self, language: Language) -> Toolchain:
        try:
            programs = tuple(self._find(name, language.paths) for name in _programs(language))
            self._check_npm(language)
            key = (language.version, *programs)
            if key not in self._versions:
                async with self._limiter:
                    self._versions[key] = await self._version(language)
        except _Missing as missing:
            return Toolchain(language=language.code, problem=str(missing), install=self._install(language))
        return Toolchain(language=language.code, version=self._versions[key])

    def _find(self, name: str, paths: tuple[str, ...]) -> tuple[str, int]:
        """The file that a sandbox would start, and when it was changed."""
        found = shutil.which(name, path=self._path)
        if found is None:
            raise _Missing(f"{name}: not found in {self._path}")
        real = Path(found).resolve()
        if not any(real.is_relative_to(root) for root in self._roots) and not any(_covers(pattern, real) for pattern in paths):
            raise _Missing(f"{name}: {found} leads to {real}, which sandboxes don't see: install it below /usr")
        return str(real), real.stat().st_mtime_ns

    def _check_npm(self, language: Language) -> None:
        for package in language.install.npm:
            name = package[0] + package[1:].partition("@")[0]
            if not any((directory / name).is_dir() for directory in self._npm):
                raise _Missing(f"npm package {name}: not found in {', '.join(map(str, self._npm))}")

    async def _version(self, language: Language) -> str:
        command = shlex.join(language.version)
        program = shutil.which(language.version[0], path=self._path) or language.version[0]
        env = {"PATH": self._path, "HOME": "/tmp", "LANG": "C.UTF-8", **language.env}  # noqa: S108 - as in a sandbox
        code, output = None, b""
        with anyio.move_on_after(self._timeout_s):
            code, output = await _output((program, *language.version[1:]), env)
        if code is None:
            raise _Missing(f"{command}: no answer within {self._timeout_s:g} s")
        text = output.decode(errors="replace").strip()
        first = text.partition("\n")[0][:80]
        if code != 0:
            raise _Missing(f"{command}: ended with {code}: {first}")
        number = _VERSION.search(text)
        return number[0] if number else first

    def _install(self, language: Language) -> str:
        debian, npm = language.install.debian, language.install.npm
        if npm and shutil.which("npm", path=self._path):
            debian = ()  # Node.js is there, and a vendor's npm does not go together with Debian's
        commands = [(*APT_INSTALL, *debian)] if debian else []
        if npm:
            commands.append((*NPM_INSTALL, *npm))
        return " && ".join(shlex.join(command) for command in commands)


class InImages(Toolchains):
    """Tool chains that are in images: each is taken to be there, and a job of one that is not says so."""

    async def probe(self, languages: Iterable[Language]) -> dict[str, Toolchain]:
        """All of them, in versions that nobody has asked for."""
        return {language.code: Toolchain(language=language.code) for language in languages}


class _Missing(Exception):
    """A tool chain is not there, or does not work."""


def _programs(language: Language) -> list[str]:
    """The programs of the machine that the language's commands start, without those that the compiler makes."""
    commands = (language.version, language.compile or (), language.run)
    return list(dict.fromkeys(command[0] for command in commands if command and "{" not in command[0]))


def _covers(pattern: str, file: Path) -> bool:
    """Whether a glob of `Language.paths` shows the file to sandboxes: it, or a directory above it."""
    return any(place.match(pattern) for place in (file, *file.parents))


async def _output(argv: tuple[str, ...], env: dict[str, str]) -> tuple[int, bytes]:
    """Exit code and output of a program, with what it started gone. Raises _Missing where it can't be started."""
    try:
        process = await anyio.open_process(
            argv, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, env=env, cwd="/", start_new_session=True
        )
    except OSError as error:
        raise _Missing(f"{argv[0]}: {error.strerror}") from None
    async with process:
        try:
            output = await _read(process)
            return await process.wait(), output
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


async def _read(process: Process) -> bytes:
    """All that the process writes, up to a bound; it has to end by itself or by its deadline after that."""
    output = bytearray()
    assert process.stdout is not None
    async for chunk in process.stdout:
        output += chunk[: _MOST_BYTES - len(output)]
    return bytes(output)
