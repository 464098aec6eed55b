"""An Executor in memory, for tests of what stands above it. A job's code is a line of words that tell the sandbox what to do.

`hi` prints hi · `sleep 0.1` · `wait` until `executor.go` is set · `stream 3 0.1` writes three pieces, so many seconds apart ·
`lose` its sandbox goes away · `lose 2` so the first two times · `crash` the executor raises · `nothing` no result · `refuse` ·
`fail 3` exits with 3 · `end timeout 2` ends with that status the first two times · `print 3` prints so many bytes ·
`files 2 10` leaves two of ten bytes

In a session, with `; ` between them: `add 1` to the number that is the interpreter's state, and print it · `write NAME TEXT` a file ·
`fill NAME 100` one of so many bytes · `cat NAME` · `ls` the files · `big 100` so many bytes of state
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager

from runnerd import (
    Event,
    File,
    Job,
    Language,
    Limits,
    Output,
    Rejected,
    Result,
    SandboxError,
    SandboxLost,
    Skipped,
    Started,
    StateInfo,
    Stored,
    Usage,
)
from runnerd.spec import Workspace
from runnerd.stdin import Stdin
from runnerd.tools import Tools


class FakeSandbox:
    def __init__(self, executor: "FakeExecutor", language: Language, number: int) -> None:
        self.tenant = ""
        self.kept = False
        self.language = language
        self.number = number
        self.runs = 0
        self.closed = 0
        self.gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._executor = executor

    def lose(self, reason: str = "taken away") -> None:
        if not self.gone.done():
            self.gone.set_result(reason)

    async def lost(self) -> str:
        return await asyncio.shield(self.gone)

    async def run(
        self,
        job: Job,
        language: Language,
        limits: Limits,
        workspace: Workspace | None = None,
        stdin: Stdin | None = None,
        tools: Tools | None = None,
    ) -> AsyncIterator[Event]:
        assert self.closed == 0, "runs in a sandbox that is closed"
        assert language is self.language
        self.runs += 1
        assert self.runs == 1, "a sandbox is used once"
        assert None not in (getattr(limits, name) for name in limits.__struct_fields__)
        executor = self._executor
        executor.starts[job.id] += 1
        executor.running[job.id] += 1
        executor.ran.append(job)
        try:
            yield Started(id=job.id, stage="run")
            interpreter = Interpreter(workspace)
            await interpreter.load()
            *before, last = (job.code or "").split("; ")
            for line in before:
                interpreter.do(line)
            word, _, rest = last.partition(" ")
            match word:
                case "sleep":
                    await asyncio.sleep(float(rest))
                case "wait":
                    await executor.go.wait()
                case "stream":
                    count, _, pause_s = rest.partition(" ")
                    for i in range(int(count)):
                        yield Output(id=job.id, stream="stdout", seq=i + 1, text=f"{i}\n")
                        await asyncio.sleep(float(pause_s or 0))
                case "lose" if not rest or executor.starts[job.id] <= int(rest):
                    self.lose("the sandbox blew up")
                    raise SandboxLost("the sandbox blew up")
                case "crash":
                    raise ZeroDivisionError("a defect")
                case "nothing":
                    return
                case "refuse":
                    raise Rejected("code: not this one")
                case "print":
                    yield Result(status="ok", exit_code=0, stdout="x" * int(rest))
                    return
                case "files":
                    count, size = map(int, rest.split())
                    files = tuple(File(name=f"{i}.bin", data=b"\0" * size) for i in range(count))
                    yield Result(status="ok", exit_code=0, files=files)
                    return
                case "end" if executor.starts[job.id] <= int(rest.split()[1]):
                    stored, skipped, state = await interpreter.leave(failed=True)
                    yield Result(status=rest.split()[0], reason="so it goes", stored=stored, skipped=skipped, state=state)  # type: ignore[arg-type]
                    return
                case "fail":
                    stored, skipped, state = await interpreter.leave(failed=True)
                    yield Result(status="failed", exit_code=int(rest), stored=stored, skipped=skipped, state=state)
                    return
                case _:
                    interpreter.do(last)
            stored, skipped, state = await interpreter.leave()
            stdout = "".join(interpreter.printed) or "hi\n"
            usage = Usage(ran_ms=1.0)
            yield Result(status="ok", exit_code=0, stdout=stdout, usage=usage, stored=stored, skipped=skipped, state=state)
        finally:
            executor.running[job.id] -= 1


class Interpreter:
    """What a program does with its session."""

    def __init__(self, workspace: Workspace | None) -> None:
        self.printed: list[str] = []
        self._workspace = workspace
        self._files: dict[str, bytes] = {}
        self._before: dict[str, bytes] = {}
        self._state = b""

    async def load(self) -> None:
        if self._workspace is not None:
            for file in self._workspace.files:
                self._files[file.name] = b"".join([chunk async for chunk in file.read()])
                assert len(self._files[file.name]) == file.size
            if self._workspace.state is not None:
                self._state = b"".join([chunk async for chunk in self._workspace.state.read()])
        self._before = dict(self._files)

    def do(self, line: str) -> None:
        word, *words = line.split(" ", 2)
        match word:
            case "add":
                self._state = str(int(self._state or b"0") + int(words[0])).encode()
                self.printed.append(self._state.decode() + "\n")
            case "big":
                self._state = b"1".rjust(int(words[0]))
            case "write":
                self._files[words[0]] = words[1].encode() if len(words) > 1 else b""
            case "fill":
                self._files[words[0]] = bytes(int(words[1]))
            case "cat":
                self.printed.append(self._files[words[0]].decode() + "\n")
            case "ls":
                self.printed.append(" ".join(sorted(self._files)) + "\n")

    async def leave(self, *, failed: bool = False) -> tuple[tuple[Stored, ...], tuple[Skipped, ...], StateInfo | None]:
        if self._workspace is None:
            return (), (), None
        kept = [
            await self._workspace.keep(name, len(content), _chunks(content))
            for name, content in self._files.items()
            if self._before.get(name) != content
        ]
        info = None
        if self._workspace.state_bytes:
            info = StateInfo(restored=self._workspace.state is not None)
            if self._state and (not failed or self._workspace.state_on_error):
                size, digest = await self._workspace.keep_state(_chunks(self._state))
                info = StateInfo(restored=info.restored, size=size, hash=digest)
        stored = tuple(one for one in kept if isinstance(one, Stored))
        return stored, tuple(one for one in kept if isinstance(one, Skipped)), info


async def _chunks(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 1 << 16):
        yield content[start : start + (1 << 16)]


class FakeExecutor:
    name = "fake"
    level = "none"

    def __init__(self, *, start_s: float = 0.0, close_s: float = 0.0, fails: Callable[[], bool] = lambda: False) -> None:
        self.start_s = start_s
        self.close_s = close_s
        self.fails = fails
        self.reason = "no room on this machine"
        self.sandboxes: dict[FakeSandbox, None] = {}
        self.closed: list[FakeSandbox] = []
        self.alive = 0
        """Sandboxes that exist, those that start or end among them."""
        self.most_alive = 0
        self.tried = 0
        self.starts: Counter[str] = Counter()
        self.running: Counter[str] = Counter()
        self.ran: list[Job] = []
        self.go = asyncio.Event()
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.may_close = asyncio.Event()
        self.may_close.set()

    @asynccontextmanager
    async def sandbox(self, language: Language) -> AsyncGenerator[FakeSandbox, None]:
        self.tried += 1
        self.alive += 1
        self.most_alive = max(self.most_alive, self.alive)
        sandbox = FakeSandbox(self, language, self.tried)
        try:
            await asyncio.sleep(self.start_s)
            await self.may_start.wait()
            if self.fails():
                raise SandboxError(self.reason)
            self.sandboxes[sandbox] = None
            try:
                yield sandbox
            finally:
                sandbox.closed += 1
                del self.sandboxes[sandbox]
                self.closed.append(sandbox)
                await asyncio.sleep(self.close_s)
                await self.may_close.wait()
        finally:
            self.alive -= 1


def sometimes(seed: int, share: float) -> Callable[[], bool]:
    """True in `share` of calls, the same for the same seed."""
    chance = random.Random(seed)
    return lambda: chance.random() < share


def a_language(code: str = "py", warm: int = 0, **fields: object) -> Language:
    """A language for tests."""
    filled = {"name": code, "filename": f"main.{code}", "run": (code,), "image": code, "version": (code,), "hello": "hi"} | fields
    return Language(code=code, warm=warm, **filled)  # type: ignore[arg-type]


async def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    """Wait for a condition, giving other tasks their turn; fails with what it waited for."""
    try:
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(0.001)
    except TimeoutError:
        raise AssertionError(f"waited {timeout_s:g} s in vain: {what}") from None
