"""A workspace in memory, as an executor sees one, and jobs that are run with it."""

from collections.abc import AsyncIterator, Mapping

from runnerd import Job, Language, Limits, Result
from runnerd.executors.local import LocalExecutor
from runnerd.job import Skipped, StateInfo, Stored
from runnerd.spec import Content

LIMITS = Limits(
    wall_s=20, cpu_s=10, memory_bytes=256 << 20, processes=64, open_files=256, output_bytes=1 << 16, file_bytes=1 << 20, files=8
)
CHUNK = 64 << 10


def content(name: str, data: bytes) -> Content:
    """Bytes that come in chunks."""

    async def read() -> AsyncIterator[bytes]:
        for start in range(0, len(data), CHUNK):
            yield data[start : start + CHUNK]

    return Content(name=name, size=len(data), read=read)


class MemoryWorkspace:
    """One start of a job. What it leaves is in `kept` and `snapshot`."""

    def __init__(
        self, files: Mapping[str, bytes] | None = None, state: bytes | None = None, state_bytes: int = 0, state_on_error: bool = False
    ) -> None:
        self.files = [content(name, data) for name, data in (files or {}).items()]
        self.state = None if state is None else content("", state)
        self.state_bytes = state_bytes
        self.state_on_error = state_on_error
        self.state_stays = state is not None
        self.kept: dict[str, bytes] = {}
        self.sizes: dict[str, int] = {}
        self.snapshot: bytes | None = None

    async def keep(self, name: str, size: int, chunks: AsyncIterator[bytes]) -> Stored | Skipped:
        data = b"".join([chunk async for chunk in chunks])
        self.kept[name], self.sizes[name] = data, size
        return Stored(id=f"{len(self.kept):021}", session="s", name=name, size=len(data), content_type="", sha256="", created=0.0)

    async def keep_state(self, chunks: AsyncIterator[bytes]) -> tuple[int, str]:
        self.snapshot = b"".join([chunk async for chunk in chunks])
        return len(self.snapshot), "hash"


async def run(executor: LocalExecutor, language: Language, job: Job, workspace: MemoryWorkspace, limits: Limits = LIMITS) -> Result:
    """Run a job with its workspace."""
    async with executor.sandbox(language) as sandbox:
        result = [event async for event in sandbox.run(job, language, limits, workspace)][-1]
    assert isinstance(result, Result)
    print(result)  # to be read where a test fails
    return result


class Interpreter:
    """Programs one after the other, each with the variables of the last that was kept."""

    def __init__(self, executor: LocalExecutor, language: Language, state_bytes: int = 1 << 20, state_on_error: bool = False) -> None:
        self.executor = executor
        self.language = language
        self.state_bytes = state_bytes
        self.state_on_error = state_on_error
        self.snapshot: bytes | None = None
        self.kept = False
        """Whether the last program's variables were."""

    async def result(self, code: str, limits: Limits = LIMITS, files: Mapping[str, bytes] | None = None, **fields: object) -> Result:
        """Run a program."""
        workspace = MemoryWorkspace(files, self.snapshot, self.state_bytes, self.state_on_error)
        job = Job(id="job", tenant="t", lang="py", code=code, **fields)  # type: ignore[arg-type]
        result = await run(self.executor, self.language, job, workspace, limits)
        self.kept = workspace.snapshot is not None
        self.snapshot = workspace.snapshot or self.snapshot
        return result

    async def printed(self, code: str) -> str:
        """Run a program that ends well, and return what it printed."""
        result = await self.result(code)
        assert (result.status, result.stderr) == ("ok", ""), result
        return result.stdout

    async def state(self, code: str) -> StateInfo:
        """Run a program and return what became of its variables."""
        result = await self.result(code)
        assert result.state is not None
        return result.state
