"""What every language has to do, as tests that run its programs in sandboxes of this machine, where its tool chain has to be.

class TestPerl(LanguageContract):
    language = PERL
    programs = Programs.read(Path(__file__).parent / "programs")
"""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, ClassVar, Self

import msgspec
import pytest
from msgspec import Struct

from ..executors.local import LocalSettings, open_local
from ..job import File, Job, Limits, Result, new_id
from ..limits import LimitSettings, effective
from ..spec import Executor, Language
from .hosting import hosted

ARGS = ("two words", "$(exit 9);`exit 9`", "'\"\\", "-x", "--version", "žluť 雪", "*")
"""Arguments that a program gets as they are: no shell, and no tool chain, takes them for its own."""
STDIN = "first line\nžluťoučký 雪 🎉\n"
UNICODE = "žluťoučký 雪 🎉\n"


class Programs(Struct, frozen=True, kw_only=True):
    """Programs in one language, each of which does one thing."""

    args: str
    """Prints each of its arguments on a line of its own."""
    stdin: str
    """Copies its standard input, lines of UTF-8, to its standard output."""
    files: str
    """Copies in.txt, a line of text, to a new file out.txt."""
    exit: str
    """Exits with code 3."""
    runtime_error: str
    """Fails as programs of this language do, with a message on standard error in which `boom` occurs."""
    forever: str
    """Prints `started` and a newline, sees to it that this is written, and sleeps without end."""
    unicode: str
    """Prints `žluťoučký 雪 🎉` and a newline."""
    compile_error: str | None = None
    """Does not compile. None where the language has no compile stage."""

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Read the programs from the files of a directory, each named after its field. Raises msgspec.ValidationError."""
        return msgspec.convert({path.stem: path.read_text(encoding="utf-8") for path in sorted(directory.iterdir())}, cls)


class LanguageContract:
    """What every language has to do."""

    language: ClassVar[Language]
    programs: ClassVar[Programs]
    settings: ClassVar[LimitSettings] = LimitSettings()
    """Limits of the jobs, before the language's multipliers."""
    timeout_s: ClassVar[float | None] = None
    """Wall time given to each stage of the program that never ends. None: 2 s, or 10 s with a compile stage."""

    @pytest.fixture
    async def executor(self) -> AsyncGenerator[Executor]:
        """Makes the sandboxes, at the strongest level of this machine. Override it to share one between tests."""
        async with hosted(open_local(LocalSettings(), 1, [self.language])) as executor:
            yield executor

    async def run(self, executor: Executor, code: str, **fields: Any) -> Result:
        """Run a program in a sandbox of its own; `fields` are further ones of its Job."""
        job = Job(id=new_id(), tenant="contract", lang=self.language.code, code=code, **fields)
        limits = effective(job, self.language, self.settings)
        result = None
        async with executor.sandbox(self.language) as sandbox:
            async for event in sandbox.run(job, self.language, limits):
                result = event
        assert isinstance(result, Result), f"the last event was no Result: {result!r}"
        return result

    async def test_hello(self, executor: Executor) -> None:
        """The language's own example prints `hi`, and leaves nothing behind."""
        result = await self.run(executor, self.language.hello)
        _succeeded(result, stdout="hi\n")
        _has(result, stderr="")
        assert (result.compile is None) == (self.language.compile is None), f"a compile stage is reported if there is one: {result!r}"

    async def test_args(self, executor: Executor) -> None:
        """Arguments arrive as they were given."""
        result = await self.run(executor, self.programs.args, args=ARGS)
        _succeeded(result, stdout="".join(f"{arg}\n" for arg in ARGS))

    async def test_stdin(self, executor: Executor) -> None:
        """Standard input is the run stage's, and ends."""
        _succeeded(await self.run(executor, self.programs.stdin, stdin=STDIN), stdout=STDIN)

    async def test_files(self, executor: Executor) -> None:
        """A program reads the job's files and leaves new ones; what tool chains write is not among them."""
        result = await self.run(executor, self.programs.files, files=(File(name="in.txt", text=UNICODE),))
        _has(result, status="ok")
        assert [(file.name, file.content.decode()) for file in result.files] == [("out.txt", UNICODE)], f"files: {result!r}"

    async def test_exit_code(self, executor: Executor) -> None:
        """An exit code other than 0 is the program's failure, and is passed on."""
        _has(await self.run(executor, self.programs.exit), status="failed", stage="run", exit_code=3, signal=None, reason="")

    async def test_compile_error(self, executor: Executor) -> None:
        """What does not compile fails in the compile stage, with the compiler's words and none of the program's."""
        if self.programs.compile_error is None:
            assert self.language.compile is None, "programs.compile_error is missing: the language has a compile stage"
            return
        result = await self.run(executor, self.programs.compile_error)
        _has(result, status="failed", stage="compile", stdout="")
        assert result.compile is not None, f"no compile stage is reported: {result!r}"
        assert result.compile.exit_code != 0, f"the compiler reports no failure: {result!r}"
        assert result.compile.stderr + result.compile.stdout, f"the compiler says nothing: {result!r}"

    async def test_runtime_error(self, executor: Executor) -> None:
        """A program that fails says why, on its standard error."""
        result = await self.run(executor, self.programs.runtime_error)
        _has(result, status="failed", stage="run")
        assert result.exit_code != 0, f"exit code: {result!r}"
        assert "boom" in result.stderr, f"no boom in stderr: {result!r}"

    async def test_timeout(self, executor: Executor) -> None:
        """A program that does not end is ended, and what it has written is kept."""
        wall_s = self.timeout_s or (2.0 if self.language.compile is None else 10.0)
        result = await self.run(executor, self.programs.forever, limits=Limits(wall_s=wall_s))
        _has(result, status="timeout", stage="run", limit="wall_s", stdout="started\n")

    async def test_unicode(self, executor: Executor) -> None:
        """Programs are UTF-8, and so is what they write."""
        _succeeded(await self.run(executor, self.programs.unicode), stdout=UNICODE)


def _succeeded(result: Result, stdout: str) -> None:
    _has(result, status="ok", stage="run", exit_code=0, stdout=stdout, files=())


def _has(result: Result, **fields: object) -> None:
    """Compare fields of a result; a difference is shown with the whole result."""
    for name, expected in fields.items():
        found = getattr(result, name)
        assert found == expected, f"{name} is {found!r} instead of {expected!r}: {result!r}"
