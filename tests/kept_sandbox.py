"""Programs one after the other in one sandbox that is kept, with the session that a daemon would keep for them."""

from collections.abc import AsyncIterator, Mapping

import msgspec

from memory_workspace import LIMITS, MemoryWorkspace, content
from runnerd import File, Job, Language, Limits, Result, new_id
from runnerd.executors.sandbox import AgentSandbox
from runnerd.job import Skipped, Stored


class SessionWorkspace(MemoryWorkspace):
    """One start of a job in a session: what it finds has versions, and so has what it leaves."""

    def __init__(self, files: Mapping[str, tuple[str, bytes]], state: bytes | None, state_bytes: int) -> None:
        super().__init__(None, state, state_bytes)
        self.files = [msgspec.structs.replace(content(name, data), version=version) for name, (version, data) in files.items()]
        self.left: dict[str, tuple[str, bytes]] = {}

    async def keep(self, name: str, size: int, chunks: AsyncIterator[bytes]) -> Stored | Skipped:
        stored = await super().keep(name, size, chunks)
        assert isinstance(stored, Stored)
        self.left[name] = (new_id(), self.kept[name])
        return msgspec.structs.replace(stored, id=self.left[name][0])


class KeptSandbox:
    """A session in one sandbox."""

    def __init__(self, sandbox: AgentSandbox, language: Language, reuse: str = "session", state_bytes: int = 1 << 20) -> None:
        self.sandbox = sandbox
        self.language = msgspec.structs.replace(language, reuse=reuse)
        self.files: dict[str, tuple[str, bytes]] = {}
        self.snapshot: bytes | None = None
        self.state_bytes = state_bytes

    async def result(self, code: str, files: Mapping[str, bytes] | None = None, limits: Limits = LIMITS, **fields: object) -> Result:
        """Run a program."""
        workspace = SessionWorkspace(self.files, self.snapshot, self.state_bytes)
        brought = tuple(File(name=name, data=data) for name, data in (files or {}).items())
        job = Job(id=new_id(), tenant="t", lang=self.language.code, code=code, files=brought, **fields)  # type: ignore[arg-type]
        result = [event async for event in self.sandbox.run(job, self.language, limits, workspace)][-1]
        assert isinstance(result, Result)
        self.files.update(workspace.left)
        self.snapshot = workspace.snapshot or self.snapshot
        return result

    async def printed(self, code: str, **fields: object) -> str:
        """Run a program that ends well and after which the sandbox is kept, and return what it printed."""
        result = await self.result(code, **fields)  # type: ignore[arg-type]
        assert (result.status, result.stderr) == ("ok", ""), result
        assert self.sandbox.kept
        return result.stdout

    @property
    def asleep(self) -> bool:
        """Whether an interpreter waits for the next program."""
        return self.sandbox._present.asleep
