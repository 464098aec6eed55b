"""The contract of an executor, kept at every level: what a job is given, what it gives back, and what is left of it."""

import asyncio
import os
from pathlib import Path

import msgspec
import pytest

from conftest import ExecutorAt
from runnerd import Event, File, Job, Language, Limits, Output, Result, SandboxLost, Started
from runnerd.executors.local import LocalExecutor, LocalSettings, open_local

LEVELS = (
    pytest.param("gvisor", marks=pytest.mark.slow),
    "strong",
    "userns",
    "landlock",
    "process",
    pytest.param("pod", marks=pytest.mark.pods),
)
LIMITS = Limits(wall_s=5, cpu_s=5, memory_bytes=256 << 20, processes=64, open_files=256, output_bytes=1 << 16, file_bytes=1 << 20, files=4)


@pytest.fixture(params=LEVELS)
async def at_level(request: pytest.FixtureRequest, executor_at: ExecutorAt) -> LocalExecutor:
    return await executor_at(request.param)


async def events_of(executor: LocalExecutor, language: Language, job: Job, limits: Limits = LIMITS) -> list[Event]:
    async with executor.sandbox(language) as sandbox:
        return [event async for event in sandbox.run(job, language, limits)]


async def run(executor: LocalExecutor, language: Language, job: Job, limits: Limits = LIMITS) -> Result:
    result = (await events_of(executor, language, job, limits))[-1]
    assert isinstance(result, Result)
    return result


def python(code: str, **fields: object) -> Job:
    return Job(id="job", tenant="t", lang="py", code=code, **fields)  # type: ignore[arg-type]


@pytest.fixture
def bash(languages: dict[str, Language]) -> Language:
    return languages["bash"]


async def test_hello(at_level: LocalExecutor, py: Language) -> None:
    result = await run(at_level, py, python('print("hi")'))
    assert (result.status, result.exit_code, result.stdout, result.stderr, result.files) == ("ok", 0, "hi\n", "", ())
    assert result.sandbox is not None
    assert result.sandbox.level == at_level.level
    assert result.usage.cpu_ms > 0


async def test_any_program_gets_input_arguments_and_environment(at_level: LocalExecutor, bash: Language) -> None:
    code = 'read line; echo "$line $1 $2 $GREETING"; echo err >&2; exit 3'
    job = Job(id="j", tenant="t", lang="bash", code=code, stdin="in\n", args=("a b", "c"), env={"GREETING": "hallo"})
    result = await run(at_level, bash, job)
    assert (result.status, result.exit_code, result.stdout, result.stderr) == ("failed", 3, "in a b c hallo\n", "err\n")


async def test_python_gets_input_arguments_and_environment(at_level: LocalExecutor, py: Language) -> None:
    code = "import os, sys\nprint(sys.stdin.read(), sys.argv[1:], os.environ['GREETING'])\nsys.exit('gone')"
    result = await run(at_level, py, python(code, stdin="in", args=("a b",), env={"GREETING": "hallo"}))
    assert (result.exit_code, result.stdout, result.stderr) == (1, "in ['a b'] hallo\n", "gone\n")


async def test_large_input_goes_through(at_level: LocalExecutor, py: Language) -> None:
    content = os.urandom(700_000)
    code = "import sys\nprint(len(sys.stdin.buffer.read()), len(open('big.bin', 'rb').read()))"
    job = python(code, stdin_bytes=content * 3, files=(File(name="big.bin", data=content),))
    assert (await run(at_level, py, job)).stdout == f"{3 * len(content)} {len(content)}\n"


async def test_input_that_nobody_reads_hurts_nobody(at_level: LocalExecutor, py: Language) -> None:
    result = await run(at_level, py, python("print('done')", stdin_bytes=b"x" * 3_000_000))
    assert (result.status, result.stdout) == ("ok", "done\n")


async def test_files_come_in_and_new_and_changed_ones_go_out(at_level: LocalExecutor, py: Language) -> None:
    code = """
import os
os.makedirs("new/deep"); open("new/deep/a.txt", "w").write("a"); open("empty", "w").close()
open("in/changed.txt", "a").write("!")
open("in/same.txt").read()
"""
    files = (File(name="in/changed.txt", text="c"), File(name="in/same.txt", text="s"))
    result = await run(at_level, py, python(code, files=files))
    assert {file.name: file.content for file in result.files} == {"empty": b"", "in/changed.txt": b"c!", "new/deep/a.txt": b"a"}
    assert result.skipped == ()


async def test_a_change_that_keeps_the_size_is_seen(at_level: LocalExecutor, py: Language) -> None:
    result = await run(at_level, py, python("open('x', 'w').write('b')", files=(File(name="x", text="a"),)))
    assert [file.content for file in result.files] == [b"b"]


async def test_a_program_that_replaces_itself_returns_what_it_left(at_level: LocalExecutor, py: Language) -> None:
    result = await run(at_level, py, python("import os; os.remove('main.py'); open('out', 'w').write('x')"))
    assert [file.name for file in result.files] == ["out"]


async def test_files_over_limits_and_things_that_are_no_files_are_named(at_level: LocalExecutor, py: Language) -> None:
    code = """
import os
os.symlink("/etc/passwd", "link"); os.mkfifo("pipe"); os.mkdir("dir"); os.symlink("/", "dir/root")
for i in range(6): open(f"f{i}", "w").write(str(i))
"""
    result = await run(at_level, py, python(code))
    assert [file.name for file in result.files] == ["f0", "f1", "f2", "f3"]
    skipped = {item.name: item.reason for item in result.skipped}
    assert set(skipped) == {"f4", "f5", "link", "pipe", "dir/root"}
    assert "symbolic link" in skipped["link"]


async def test_several_files_with_an_entry(at_level: LocalExecutor, py: Language) -> None:
    files = (File(name="pkg/__init__.py", text="X = 4"), File(name="start.py", text="from pkg import X\nprint(X)"))
    job = Job(id="j", tenant="t", lang="py", files=files, entry="start.py")
    assert (await run(at_level, py, job)).stdout == "4\n"


async def test_output_streams_as_it_is_written(at_level: LocalExecutor, py: Language) -> None:
    code = "import sys\nprint('a', flush=True)\nassert sys.stdin.readline() == 'go\\n'\nprint('é' * 3)"
    job = python(code, stream=True, stdin="go\n")
    events = await events_of(at_level, py, job)
    assert isinstance(events[0], Started)
    output = b"".join(event.content for event in events if isinstance(event, Output))
    assert output.decode() == "a\néééééé"[:5] + "\n"


async def test_bytes_that_are_no_text_survive(at_level: LocalExecutor, py: Language) -> None:
    result = await run(at_level, py, python(r"import os; os.write(1, b'\xff\x00ok\n')"))
    assert (result.stdout, result.stdout_bytes) == ("\ufffd\x00ok\n", b"\xff\x00ok\n")


async def test_output_over_the_limit_is_cut_and_says_so(at_level: LocalExecutor, py: Language) -> None:
    result = await run(at_level, py, python("print('x' * 100_000)"))
    assert (result.status, len(result.stdout), result.stdout_truncated) == ("ok", 1 << 16, True)


async def test_a_flood_of_output_ends_the_job(at_level: LocalExecutor, py: Language) -> None:
    result = await run(at_level, py, python("import os\nwhile True: os.write(1, b'x' * 65536)"))
    assert (result.status, result.limit) == ("limit", "output_bytes")
    assert len(result.stdout) == 1 << 16


async def test_wall_time(at_level: LocalExecutor, py: Language) -> None:
    code = """
import signal, time
for s in range(1, 65):
    try: signal.signal(s, signal.SIG_IGN)
    except (OSError, ValueError): pass
print("on", flush=True)
while True: time.sleep(1)
"""
    limits = Limits(
        wall_s=0.5, cpu_s=5, memory_bytes=256 << 20, processes=64, open_files=256, output_bytes=1 << 16, file_bytes=1 << 20, files=4
    )
    result = await run(at_level, py, python(code), limits)
    assert (result.status, result.limit, result.stdout) == ("timeout", "wall_s", "on\n")


async def test_cpu_time(at_level: LocalExecutor, py: Language) -> None:
    limits = Limits(
        wall_s=20, cpu_s=1, memory_bytes=256 << 20, processes=64, open_files=256, output_bytes=1 << 16, file_bytes=1 << 20, files=4
    )
    result = await run(at_level, py, python("while True: pass"), limits)
    assert (result.status, result.limit) == ("limit", "cpu_s")


async def test_memory(at_level: LocalExecutor, py: Language) -> None:
    result = await run(at_level, py, python("import time\nb = bytearray(300 << 20)\ntime.sleep(3)"))
    assert (result.status, result.limit) == ("oom", "memory_bytes")


async def test_a_signal_of_its_own_is_no_oom(at_level: LocalExecutor, py: Language) -> None:
    result = await run(at_level, py, python("import os; os.kill(os.getpid(), 9)"))
    assert (result.status, result.signal, result.exit_code) == ("failed", 9, None)
    assert "SIGKILL" in result.reason


async def test_nothing_survives_a_job(at_level: LocalExecutor, py: Language) -> None:
    name = f"left-{os.getpid()}-{at_level.level}"[:15]
    code = f"""
import ctypes, os, signal, time
r, w = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for s in range(1, 65):
            try: signal.signal(s, signal.SIG_IGN)
            except (OSError, ValueError): pass
        ctypes.CDLL(None).prctl(15, {name.encode()!r})
        os.write(w, b"x")
        while True: time.sleep(1)
    os._exit(0)
os.read(r, 1)
print("left a child that holds stdout")
"""
    result = await run(at_level, py, python(code))
    assert (result.status, result.stdout) == ("ok", "left a child that holds stdout\n")
    async with asyncio.timeout(5):
        while any(comm(pid) == name for pid in os.listdir("/proc") if pid.isdigit()):
            await asyncio.sleep(0.01)


def comm(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


async def test_the_next_job_finds_nothing_of_the_last(at_level: LocalExecutor, py: Language) -> None:
    leave = "import os\nfor d in ('.', os.environ['TMPDIR']):\n  os.makedirs(d + '/left/deep'); open(d + '/left/deep/x', 'w').close()"
    look = "import os\nprint(sorted(os.listdir('.')), os.listdir(os.environ['TMPDIR']))"
    for _ in range(2 if at_level.level == "pod" else 10):  # so that every cell has had both; pods have one job each
        assert (await run(at_level, py, python(leave))).status == "ok"
        assert (await run(at_level, py, python(look))).stdout == "['main.py'] []\n"


async def test_compile_stage_apart(at_level: LocalExecutor, languages: dict[str, Language]) -> None:
    good = Job(id="j", tenant="t", lang="c", code='#include <stdio.h>\nint main(void) { puts("hi"); return 0; }\n')
    result = await run(at_level, languages["c"], good)
    assert (result.status, result.stage, result.stdout) == ("ok", "run", "hi\n")
    assert result.compile is not None
    bad = Job(id="j", tenant="t", lang="c", code="int main(void) { return x; }\n")
    result = await run(at_level, languages["c"], bad)
    assert (result.status, result.stage, result.stdout) == ("failed", "compile", "")
    assert result.compile is not None
    assert "undeclared" in result.compile.stderr


async def test_a_missing_tool_chain_is_no_output_of_the_program(at_level: LocalExecutor, bash: Language) -> None:
    missing = msgspec.structs.replace(bash, run=("no-such-program", "{file}"))
    result = await run(at_level, missing, Job(id="j", tenant="t", lang="bash", code="x"))
    assert (result.status, result.stderr) == ("dead", "")
    assert "no-such-program" in result.reason


async def test_closing_a_lease_ends_its_job(at_level: LocalExecutor, py: Language) -> None:
    async with at_level.sandbox(py) as sandbox:
        events = sandbox.run(python("print('on', flush=True)\nwhile True: pass", stream=True), py, LIMITS)
        async for event in events:
            if isinstance(event, Output):
                break
        await events.aclose()  # type: ignore[attr-defined]
    assert (await run(at_level, py, python("print('next')"))).stdout == "next\n"


async def test_jobs_side_by_side(at_level: LocalExecutor, py: Language) -> None:
    results = await asyncio.gather(*(run(at_level, py, python(f"print({n})")) for n in range(8)))
    assert [result.stdout for result in results] == [f"{n}\n" for n in range(8)]


async def test_a_tenant_never_meets_another_in_a_cell(at_level: LocalExecutor, py: Language) -> None:
    for tenant in ("a", "b") * (1 if at_level.level == "pod" else 6):
        async with at_level.sandbox(py) as sandbox:
            job = Job(id="j", tenant=tenant, lang="py", code="print(1)")
            assert [event async for event in sandbox.run(job, py, LIMITS)][-1].stdout == "1\n"  # type: ignore[union-attr]


async def test_the_agent_dies_and_comes_back(executor_at: ExecutorAt, py: Language, languages: dict[str, Language]) -> None:
    async with open_local(LocalSettings(), 2, languages.values()) as executor:
        pid = executor.agent_pid
        assert pid is not None
        async with executor.sandbox(py) as sandbox:
            events = sandbox.run(python("print('on', flush=True)\nwhile True: pass", stream=True), py, LIMITS)
            while not isinstance(await anext(events), Output):
                pass
            os.kill(pid, 9)
            with pytest.raises(SandboxLost):
                await anext(events)
        async with asyncio.timeout(20):
            while executor.agent_pid in (None, pid):
                await asyncio.sleep(0.02)
        assert (await run(executor, py, python("print('again')"))).stdout == "again\n"
