"""Files of a workspace: brought into the sandbox by reference, and what the job leaves handed over as streams."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from conftest import ExecutorAt
from hosting import hosted
from memory_workspace import LIMITS, MemoryWorkspace, content, run
from runnerd import File, Job, Language, Limits
from runnerd.errors import SandboxLost, StoreError
from runnerd.executors.local import LocalExecutor, LocalSettings, open_local
from runnerd.job import Skipped, Stored
from runnerd.spec import Content


def python(code: str, **fields: object) -> Job:
    return Job(id="job", tenant="t", lang="py", code=code, **fields)  # type: ignore[arg-type]


class TestComingIn:
    async def test_files_lie_where_they_are_named(self, at_level: LocalExecutor, py: Language) -> None:
        big = os.urandom(700_000)
        workspace = MemoryWorkspace({"a/b/deep.txt": b"deep", "empty": b"", "big.bin": big, "Grün ß.txt": b"u"})
        code = "print([open(n, 'rb').read() for n in ('a/b/deep.txt', 'empty', 'Grün ß.txt')], hash(open('big.bin', 'rb').read()) != 0)"
        result = await run(at_level, py, python(code + "\nimport os\nprint(os.path.getsize('big.bin'))"), workspace)
        assert (result.status, result.stdout) == ("ok", "[b'deep', b'', b'u'] True\n700000\n")
        assert (workspace.kept, result.files, result.stored, result.skipped, result.state) == ({}, (), (), (), None)

    async def test_what_the_job_brings_comes_first(self, executor: LocalExecutor, py: Language) -> None:
        workspace = MemoryWorkspace({"main.py": b"print('not I')", "x": b"theirs", "dir": b"file", "file/below": b"no", "dir2/y": b"y"})
        files = (File(name="x", text="own"), File(name="dir/z", text="z"), File(name="file", text="f"))
        code = "print(open('x').read(), open('dir/z').read(), open('file').read(), open('dir2/y').read())"
        result = await run(executor, py, python(code, files=files), workspace)
        assert (result.status, result.stdout) == ("ok", "own z f y\n")

    async def test_other_languages_have_them_too(self, at_level: LocalExecutor, languages: dict[str, Language]) -> None:
        workspace = MemoryWorkspace({"in": b"content\n"})
        job = Job(id="j", tenant="t", lang="bash", code="cat in -; echo new > out; echo more >> in", stdin="stdin\n")
        result = await run(at_level, languages["bash"], job, workspace)
        assert (result.status, result.stdout) == ("ok", "content\nstdin\n")
        assert workspace.kept == {"in": b"content\nmore\n", "out": b"new\n"}

    async def test_with_a_compiler(self, executor: LocalExecutor, languages: dict[str, Language]) -> None:
        workspace = MemoryWorkspace({"value.h": b"#define VALUE 42\n"})
        code = '#include <stdio.h>\n#include "value.h"\nint main(void) { printf("%d\\n", VALUE); fclose(fopen("out", "w")); return 0; }\n'
        result = await run(executor, languages["c"], Job(id="j", tenant="t", lang="c", code=code), workspace)
        assert (result.status, result.stdout) == ("ok", "42\n")
        assert workspace.kept.get("out") == b""
        assert "value.h" not in workspace.kept

    async def test_several_are_read_ahead_and_never_more(self, executor: LocalExecutor, py: Language) -> None:
        reading: set[str] = set()
        most = 0

        def slow(name: str) -> Content:
            async def read() -> AsyncIterator[bytes]:
                nonlocal most
                reading.add(name)
                most = max(most, len(reading))
                await asyncio.sleep(0)
                yield name.encode()
                reading.remove(name)

            return Content(name=name, size=0, read=read)

        workspace = MemoryWorkspace()
        workspace.files = [slow(f"f{i:02}") for i in range(20)]
        result = await run(
            executor, py, python("import os\nprint(all(open(n).read() == n for n in os.listdir() if n[0] == 'f'))"), workspace
        )
        assert (result.stdout, reading) == ("True\n", set())
        assert 2 <= most <= 4

    @pytest.mark.parametrize("error", [StoreError("the store is gone"), KeyError("x")])
    async def test_a_store_that_fails_ends_the_job(self, executor: LocalExecutor, py: Language, error: Exception) -> None:
        async def read() -> AsyncIterator[bytes]:
            yield b"x" * 1000
            raise error

        workspace = MemoryWorkspace({"a": b"1", "b": b"2"})
        workspace.files.insert(1, Content(name="x", size=2000, read=read))
        with pytest.raises(StoreError, match="gone"):
            await run(executor, py, python("print(1)"), workspace)
        assert (await run(executor, py, python("print('next')"), MemoryWorkspace())).stdout == "next\n"

    async def test_time_that_the_store_takes_is_not_the_jobs(self, executor: LocalExecutor, py: Language) -> None:
        async def read() -> AsyncIterator[bytes]:
            yield b"a"
            await asyncio.sleep(2.5)
            yield b"b"

        workspace = MemoryWorkspace()
        workspace.files = [Content(name="slow", size=2, read=read)]
        limits = Limits(wall_s=2, cpu_s=5, memory_bytes=64 << 20, processes=9, open_files=99, output_bytes=99, file_bytes=99, files=1)
        result = await run(executor, py, python("print(open('slow').read())"), workspace, limits)
        assert (result.status, result.stdout) == ("ok", "ab\n")
        assert result.usage.ran_ms < 2000

    async def test_more_than_fits(self, executor: LocalExecutor, py: Language) -> None:
        async def read() -> AsyncIterator[bytes]:
            for _ in range(1000):
                yield bytes(1 << 20)

        workspace = MemoryWorkspace()
        workspace.files = [Content(name="endless", size=1 << 30, read=read)]
        limits = Limits(
            wall_s=5, cpu_s=5, memory_bytes=1 << 30, processes=64, open_files=256, output_bytes=1 << 16, file_bytes=1 << 20, files=4
        )
        result = await run(executor, py, python("print(1)"), workspace, limits)
        assert (result.status, result.limit, result.stdout) == ("limit", "workspace_bytes", "")

    async def test_the_job_is_given_up_while_files_come(self, executor: LocalExecutor, py: Language) -> None:
        begun, closed = asyncio.Event(), asyncio.Event()

        async def read() -> AsyncIterator[bytes]:
            try:
                yield b"x"
                begun.set()
                await asyncio.Event().wait()
            finally:
                closed.set()

        workspace = MemoryWorkspace()
        workspace.files = [Content(name="x", size=2, read=read)]
        task = asyncio.ensure_future(run(executor, py, python("print(1)"), workspace))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert closed.is_set()

    async def test_files_that_take_more_memory_than_there_is(self, at_level: LocalExecutor, py: Language) -> None:
        if at_level.level in ("landlock", "process"):
            pytest.skip("files are on disk there, and no memory")
        workspace = MemoryWorkspace({"a": bytes(60 << 20), "b": bytes(60 << 20)})
        limits = msgspec.structs.replace(LIMITS, memory_bytes=64 << 20)
        result = await run(at_level, py, python("print(1)"), workspace, limits)
        assert (result.status, result.limit, result.stdout) == ("oom", "memory_bytes", "")

    async def test_the_agent_dies_while_files_come(self, py: Language) -> None:
        async with open_local(LocalSettings(), 1, ()) as executor:

            async def read() -> AsyncIterator[bytes]:
                while True:
                    yield bytes(1 << 20)
                    if executor.agent_pid is not None:
                        os.kill(executor.agent_pid, 9)

            workspace = MemoryWorkspace()
            workspace.files = [Content(name="x", size=1 << 40, read=read)]
            with pytest.raises(SandboxLost):
                await run(executor, py, python("print(1)"), workspace)


class TestGoingOut:
    async def test_new_and_changed_ones_and_no_others(self, at_level: LocalExecutor, py: Language) -> None:
        code = """
import os
os.makedirs("new/deep"); open("new/deep/a.txt", "w").write("a"); open("empty", "w").close()
open("in/changed.txt", "a").write("!"); open("in/same.txt").read(); os.remove("removed")
open("rewritten", "w").write("same")
os.symlink("/etc/passwd", "link"); os.mkfifo("pipe")
os.rename("old name", "new name")
"""
        files = {"in/changed.txt": b"c", "in/same.txt": b"s", "removed": b"r", "rewritten": b"SAME", "old name": b"n"}
        workspace = MemoryWorkspace(files)
        result = await run(at_level, py, python(code), workspace)
        assert workspace.kept == {
            "in/changed.txt": b"c!", "new/deep/a.txt": b"a", "empty": b"", "rewritten": b"same", "new name": b"n",
        }  # fmt: skip
        assert workspace.sizes == {name: len(data) for name, data in workspace.kept.items()}
        assert {stored.name for stored in result.stored} == set(workspace.kept)
        assert {item.name for item in result.skipped} == {"link", "pipe"}
        assert result.files == ()

    async def test_an_edit_that_puts_size_and_time_back_is_seen(self, at_level: LocalExecutor, py: Language) -> None:
        code = """
import os, time
time.sleep(0.05)
before = os.stat("x")
open("x", "w").write("b")
os.utime("x", ns=(before.st_atime_ns, before.st_mtime_ns))
after = os.stat("x")
print(before.st_size == after.st_size, before.st_mtime_ns == after.st_mtime_ns)
"""
        workspace = MemoryWorkspace({"x": b"a", "y": b"y"})
        result = await run(at_level, py, python(code), workspace)
        assert (result.stdout, workspace.kept) == ("True True\n", {"x": b"b"})

    @pytest.mark.parametrize(
        ("code", "status"), [("1 / 0", "failed"), ("import os; os._exit(3)", "failed"), ("while True: pass", "timeout")]
    )
    async def test_whatever_the_end(self, at_level: LocalExecutor, py: Language, code: str, status: str) -> None:
        limits = Limits(wall_s=2, cpu_s=9, memory_bytes=64 << 20, processes=64, open_files=99, output_bytes=999, file_bytes=999, files=9)
        workspace = MemoryWorkspace({"in": b"i"}, state_bytes=1 << 20)
        program = f"with open('out', 'w') as file: file.write('o')\nwith open('in', 'a') as file: file.write('!')\n{code}"
        result = await run(at_level, py, python(program), workspace, limits)
        assert (result.status, workspace.kept) == (status, {"out": b"o", "in": b"i!"})

    async def test_limits_are_said(self, executor: LocalExecutor, py: Language) -> None:
        code = "for i in range(10): open(f'f{i}', 'w').write('x')\nopen('a', 'wb').write(bytes(900))"
        limits = Limits(wall_s=20, cpu_s=9, memory_bytes=64 << 20, processes=64, open_files=99, output_bytes=999, file_bytes=1000, files=8)
        workspace = MemoryWorkspace()
        result = await run(executor, py, python(code), workspace, limits)
        assert sorted(workspace.kept) == ["a", *(f"f{i}" for i in range(7))]
        assert {item.name: "8 files" in item.reason for item in result.skipped} == {"f7": True, "f8": True, "f9": True}

    async def test_what_the_store_refuses_is_named_and_need_not_be_read(self, at_level: LocalExecutor, py: Language) -> None:
        class Picky(MemoryWorkspace):
            async def keep(self, name: str, size: int, chunks: AsyncIterator[bytes]) -> Stored | Skipped:
                if name == "big":
                    await anext(chunks)
                    return Skipped(name=name, reason="too big for me")
                return await super().keep(name, size, chunks)

        workspace = Picky()
        code = "open('big', 'wb').write(bytes(1_000_000)); open('a', 'w').write('a'); open('z', 'w').write('z')"
        result = await run(at_level, py, python(code), workspace)
        assert (result.status, workspace.kept) == ("ok", {"a": b"a", "z": b"z"})
        assert result.skipped == (Skipped(name="big", reason="too big for me"),)

    async def test_a_store_that_fails_ends_the_job(self, executor: LocalExecutor, py: Language) -> None:
        class Broken(MemoryWorkspace):
            async def keep(self, name: str, size: int, chunks: AsyncIterator[bytes]) -> Stored | Skipped:
                await anext(chunks)
                raise StoreError("the disk is full")

            async def keep_state(self, chunks: AsyncIterator[bytes]) -> tuple[int, str]:
                raise StoreError("the server is gone")

        with pytest.raises(StoreError, match="full"):
            await run(executor, py, python("open('x', 'wb').write(bytes(1_000_000))"), Broken())
        with pytest.raises(StoreError, match="gone"):
            await run(executor, py, python("x = 1"), Broken(state_bytes=1 << 20))
        assert (await run(executor, py, python("print('next')"), MemoryWorkspace())).stdout == "next\n"

    async def test_a_name_like_any_of_ours_and_a_full_workspace(self, executor: LocalExecutor, py: Language) -> None:
        code = """
open("rehearsal.py", "w").write("mine")
try:
    with open("fill", "wb") as file:
        while True: file.write(bytes(1 << 20))
except OSError: print("full")
"""
        limits = Limits(
            wall_s=20, cpu_s=9, memory_bytes=512 << 20, processes=64, open_files=99, output_bytes=999, file_bytes=1 << 30, files=8
        )
        workspace = MemoryWorkspace()
        result = await run(executor, py, python(code), workspace, limits)
        assert (result.status, result.stdout, sorted(workspace.kept)) == ("ok", "full\n", ["fill", "rehearsal.py"])


def rss(field: str) -> int:
    """Bytes of this process's memory: VmRSS now, VmHWM at most since `forget_peak`."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


class Streaming(MemoryWorkspace):
    """Takes files without holding them."""

    def __init__(self, files: list[Content]) -> None:
        super().__init__()
        self.files = files
        self.read: dict[str, int] = {}

    async def keep(self, name: str, size: int, chunks: AsyncIterator[bytes]) -> Stored | Skipped:
        self.read[name] = 0
        async for chunk in chunks:
            self.read[name] += len(chunk)
            await asyncio.sleep(0)  # a store gives others their turn
        return Skipped(name=name, reason="read")


BIG = 200 << 20


@pytest.mark.slow
@pytest.mark.parametrize("level", ["strong", "process"])
async def test_a_file_of_200_mb_each_way_in_32_mb_of_memory(level: str, executor_at: ExecutorAt, py: Language) -> None:
    await executor_at(level)  # skips where this machine can't

    async def read() -> AsyncIterator[bytes]:
        for number in range(BIG >> 20):
            yield number.to_bytes(1, "big") * (1 << 20)

    code = f"""
import os, shutil
assert os.path.getsize("in") == {BIG}
with open("in", "rb") as file: assert all(file.read(1 << 20) == bytes([n]) * (1 << 20) for n in range({BIG >> 20}))
os.rename("in", "out")
print("right")
"""
    limits = Limits(wall_s=120, cpu_s=60, memory_bytes=512 << 20, processes=64, open_files=99, output_bytes=999, file_bytes=BIG, files=2)
    async with hosted(open_local(LocalSettings(level=level, workspace_bytes=BIG + (8 << 20)), 1, ())) as executor:  # type: ignore[arg-type]
        await run(executor, py, python("print(1)"), MemoryWorkspace())
        workspace = Streaming([Content(name="in", size=BIG, read=read)])
        forget_peak()
        before = rss("VmRSS")
        result = await run(executor, py, python(code), workspace, limits)
        grown = rss("VmHWM") - before
    assert (result.status, result.stdout, workspace.read) == ("ok", "right\n", {"out": BIG})
    assert grown < 32 << 20


async def test_a_store_that_takes_its_time_makes_the_sandbox_wait(py: Language) -> None:
    class Slow(Streaming):
        async def keep(self, name: str, size: int, chunks: AsyncIterator[bytes]) -> Stored | Skipped:
            await asyncio.sleep(0.3)
            return await super().keep(name, size, chunks)

    async with open_local(LocalSettings(), 1, ()) as executor:
        workspace = Slow([content("in", bytes(1 << 20))])
        result = await run(executor, py, python("for n in range(4): open(f'o{n}', 'wb').write(bytes(1 << 20))"), workspace)
    assert (result.status, workspace.read) == ("ok", {f"o{n}": 1 << 20 for n in range(4)})
