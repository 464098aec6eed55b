"""Python variables that outlive their job: what is kept, what is named as not kept, and what no snapshot can do to a job."""

import struct
import zlib
from collections.abc import AsyncGenerator

import lz4.frame
import pytest

from conftest import ExecutorAt
from hosting import hosted
from memory_workspace import Interpreter, MemoryWorkspace, run
from runnerd import Job, Language, Limits
from runnerd.agent import snapshot
from runnerd.executors.local import LocalExecutor, LocalSettings, open_local

SHORT_S = 2.0


@pytest.fixture
def interpreter(executor: LocalExecutor, py: Language) -> Interpreter:
    return Interpreter(executor, py)


@pytest.fixture(params=("strong", "userns", "process"), scope="module")
async def impatient(request: pytest.FixtureRequest, executor_at: ExecutorAt) -> AsyncGenerator[LocalExecutor]:
    """An executor that gives snapshots little time."""
    await executor_at(request.param)  # skips where this machine can't
    async with hosted(open_local(LocalSettings(level=request.param, state_s=SHORT_S), 2, ())) as opened:
        yield opened


class TestKept:
    async def test_variables_functions_classes_and_imports(self, at_level: LocalExecutor, py: Language) -> None:
        session = Interpreter(at_level, py)
        code = """
import math, json as j
from collections import Counter
x, _private, words = 1, [2], {"a": {1, 2}, "b": (3.5, None, b"c")}
def area(r): return round(math.pi * r * r, 2)
class Point:
    scale = 2
    def __init__(self, x): self.x = x
    def scaled(self): return self.x * self.scale
    @property
    def double(self): return self.x * 2
p = Point(4)
count = Counter("aab")
square = lambda n: n * n
"""
        first = await session.state(code)
        assert (first.restored, first.problem, first.skipped, first.hash) == (False, "", (), "hash")
        assert session.snapshot is not None
        assert first.size == len(session.snapshot)
        use = "print(x, _private, words == {'a': {1, 2}, 'b': (3.5, None, b'c')}, area(2), p.scaled(), p.double, isinstance(p, Point),"
        assert await session.printed(use + " count['a'], square(3), j.dumps([1]))") == "1 [2] True 12.57 8 8 True 2 9 [1]\n"
        third = await session.result("x += 1; print(x, Point(1).scaled())")
        assert (third.stdout, third.state and third.state.restored) == ("2 2\n", True)
        assert await session.printed("print(x)") == "2\n"

    async def test_a_function_sees_the_variables_of_the_program_that_calls_it(self, interpreter: Interpreter) -> None:
        await interpreter.state("n = 1\ndef get(): return n\ndef bump():\n  global n\n  n += 1\n")
        assert await interpreter.printed("n = 10; bump(); print(get(), n, get.__globals__ is globals())") == "11 11 True\n"
        assert await interpreter.printed("def helper(): return get() + 1\nprint(helper())") == "12\n"
        assert await interpreter.printed("def get(): return 'new'\nprint(len(__builtins__.__name__))") == "8\n"

    async def test_what_two_variables_share_stays_one(self, interpreter: Interpreter) -> None:
        await interpreter.state("a = b = []\nc = {'a': a}\nc['self'] = c\nimport threading\nlock = threading.Lock()")
        assert await interpreter.printed("a.append(1); print(b, c['a'] is b, c['self'] is c)") == "[1] True True\n"

    async def test_what_was_deleted_is_gone(self, interpreter: Interpreter) -> None:
        await interpreter.state("x = y = 1")
        await interpreter.state("del x")
        assert await interpreter.printed("print('x' in globals(), y)") == "False 1\n"

    async def test_what_the_interpreter_put_there_is_not_kept(self, interpreter: Interpreter) -> None:
        plain = await interpreter.printed("x = 1\nprint(sorted(globals()))")
        await interpreter.state("__secret__ = 1; __doc__ = 'mine'; x: int = 1")
        assert await interpreter.printed("print(sorted(globals()))") == plain

    async def test_modules_of_the_workspace(self, interpreter: Interpreter) -> None:
        lib = {"lib.py": b"class Thing:\n    n = 5\ndef make(): return Thing()\n"}
        await interpreter.result("import lib\nthing = lib.make()\n", files=lib)
        assert (await interpreter.result("print(thing.n, type(thing) is lib.Thing)", files=lib)).stdout == "5 True\n"
        gone = await interpreter.result("print('thing' in globals())")
        assert gone.stdout == "False\n"
        assert gone.state is not None
        assert {item.name: item.reason for item in gone.state.skipped} == dict.fromkeys(
            ("lib", "thing"), "could not be loaded (ModuleNotFoundError)"
        )

    async def test_exits(self, interpreter: Interpreter) -> None:
        await interpreter.result("x = 1\nimport sys\nsys.exit(0)")
        assert interpreter.kept
        failed = await interpreter.state("x = 2\nimport sys\nsys.exit(3)")
        assert (interpreter.kept, failed.problem) == (False, "variables were not kept: the program failed")
        assert "not kept" in (await interpreter.state("x = 3\n1 / 0")).problem
        ended = await interpreter.state("x = 4\nimport os\nos._exit(0)")
        assert ended.problem == "variables were not kept: the program was ended, or ended itself at once"
        assert await interpreter.printed("print(x)") == "1\n"

    async def test_of_failing_programs_where_that_is_wanted(self, executor: LocalExecutor, py: Language) -> None:
        session = Interpreter(executor, py, state_on_error=True)
        result = await session.result("x = 2\n1 / 0")
        assert (result.status, session.kept) == ("failed", True)
        assert "ZeroDivisionError" in result.stderr
        assert await session.printed("print(x)") == "2\n"

    async def test_threads_that_still_run(self, interpreter: Interpreter) -> None:
        code = """
import threading
numbers, x = {}, 1
def count():
    n = 0
    while True: numbers[n % 1000] = n; n += 1
threading.Thread(target=count, daemon=True).start()
"""
        assert (await interpreter.result(code)).status == "ok"
        assert await interpreter.printed("print(x)") == "1\n"

    async def test_a_forked_child_that_runs_to_the_end_gives_nothing_away(self, interpreter: Interpreter) -> None:
        code = "import os\nr, w = os.pipe()\nx = 'child' if os.fork() == 0 else 'parent'\n"
        await interpreter.state(code + "if x == 'parent': os.close(w); os.read(r, 1)")
        assert await interpreter.printed("print(globals().get('x'))") in ("parent\n", "None\n")

    async def test_megabytes(self, executor: LocalExecutor, py: Language) -> None:
        session = Interpreter(executor, py, state_bytes=16 << 20)
        await session.state("import os, zlib\nblob = os.urandom(5_000_000)\nnumbers = list(range(100_000))\ncrc = zlib.crc32(blob)")
        assert session.snapshot is not None
        assert len(session.snapshot) > 5_000_000
        assert await session.printed("print(zlib.crc32(blob) == crc, sum(numbers))") == "True 4999950000\n"

    async def test_input_arguments_and_streams_come_as_ever(self, interpreter: Interpreter) -> None:
        await interpreter.state("x = 1")
        result = await interpreter.result("import sys\nprint(x, sys.stdin.read(), sys.argv[1:])", stdin="in", args=("a",))
        assert result.stdout == "1 in ['a']\n"

    async def test_a_language_without_warm_interpreter_has_no_state(self, executor: LocalExecutor, languages: dict[str, Language]) -> None:
        workspace = MemoryWorkspace(state=b"x", state_bytes=1000)
        result = await run(executor, languages["bash"], Job(id="j", tenant="t", lang="bash", code="echo hi"), workspace)
        assert (result.status, result.stdout, result.state, workspace.snapshot) == ("ok", "hi\n", None, None)

    async def test_a_data_frame(self, executor: LocalExecutor, py: Language) -> None:
        session = Interpreter(executor, py)
        assert (await session.state("import pandas as pd\ndf = pd.DataFrame({'a': [1, 2], 'b': ['x', 'y']})\nview = df['a']")).problem == ""
        assert await session.printed("df['c'] = df['a'] * 2\nprint(df['c'].sum(), list(df.columns), view.max())") == "6 ['a', 'b', 'c'] 2\n"

    @pytest.mark.slow
    async def test_a_fitted_model(self, languages: dict[str, Language], py: Language) -> None:
        limits = Limits(
            wall_s=120, cpu_s=60, memory_bytes=512 << 20, processes=64, open_files=256, output_bytes=1 << 16, file_bytes=1 << 20, files=8
        )
        async with open_local(LocalSettings(state_s=60), 1, languages.values()) as executor:
            session = Interpreter(executor, py)
            fit = "from sklearn.linear_model import LinearRegression\nmodel = LinearRegression().fit([[0], [1], [2]], [1, 3, 5])"
            assert (await session.result(fit, limits)).status == "ok"
            assert (await session.result("print(round(model.predict([[3]])[0], 6))", limits)).stdout == "7.0\n"


class TestNotKept:
    async def test_what_can_not_be_pickled_is_named_and_the_rest_is_kept(self, interpreter: Interpreter) -> None:
        state = await interpreter.state("import threading\na = b = [1]\nlock = threading.Lock()\ngen = (i for i in a)\nboth = [a, lock]")
        assert {item.name: item.reason for item in state.skipped} == dict.fromkeys(("lock", "gen", "both"), "can't be pickled (TypeError)")
        assert (state.problem, interpreter.kept) == ("", True)
        assert await interpreter.printed("print(a is b, a, 'lock' in globals())") == "True [1] False\n"

    async def test_what_can_not_be_loaded_is_named_and_the_rest_is_there(self, interpreter: Interpreter) -> None:
        bad = "class Picky(Exception):\n  def __init__(self, a, b): super().__init__(a)\n"
        assert (await interpreter.state(bad + "before = [1]\nerror = Picky(1, 2)\nafter = before")).skipped == ()
        result = await interpreter.result("print(after is before, 'error' in globals(), Picky.__name__)")
        assert result.stdout == "True False Picky\n"
        assert result.state is not None
        assert [(item.name, item.reason) for item in result.state.skipped] == [("error", "could not be loaded (TypeError)")]

    async def test_words_of_the_program_are_no_reasons(self, interpreter: Interpreter) -> None:
        code = "class Buy(Exception): pass\nclass H:\n  def __reduce__(self): raise Buy('now')\nh = H()"
        state = await interpreter.state(code)
        assert [(item.name, item.reason) for item in state.skipped] == [("h", "can't be pickled")]

    async def test_hundreds_of_them(self, interpreter: Interpreter) -> None:
        code = "import threading\nfor i in range(300): globals()['lock%d' % i] = threading.Lock()\nx = 1"
        state = await interpreter.state(code)
        assert len(state.skipped) == 100
        assert await interpreter.printed("print(x)") == "1\n"

    async def test_more_than_there_may_be(self, executor: LocalExecutor, py: Language) -> None:
        session = Interpreter(executor, py, state_bytes=100_000)
        await session.state("x = 'old'")
        state = await session.state("import os\nx = os.urandom(1_000_000)")
        assert (session.kept, state.size, state.problem) == (False, 0, "variables were not kept: they take more than 100000 bytes")
        assert await session.printed("print(x)") == "old\n"

    async def test_of_a_job_that_is_ended(self, interpreter: Interpreter) -> None:
        limits = Limits(wall_s=1, cpu_s=5, memory_bytes=64 << 20, processes=9, open_files=99, output_bytes=99, file_bytes=99, files=1)
        result = await interpreter.result("x = 1\nimport time\nwhile True: time.sleep(1)", limits)
        assert (result.status, interpreter.kept) == ("timeout", False)
        assert result.state is not None
        assert "was ended" in result.state.problem

    async def test_none_is_taken_where_none_is_wanted(self, executor: LocalExecutor, py: Language) -> None:
        session = Interpreter(executor, py)
        await session.state("x = 1")
        session.state_bytes = 0
        result = await session.result("x += 1; print(x)")
        assert (result.stdout, session.kept) == ("2\n", False)
        assert result.state is not None
        assert (result.state.restored, result.state.problem) == (True, "")


def resealed(data: bytes, **changes: int) -> bytes:
    """A snapshot with other values in its head."""
    names = ("magic", "form", "codec", "major", "minor", "crc")
    head = dict(zip(names, snapshot.HEAD.unpack_from(data), strict=True)) | changes
    return snapshot.HEAD.pack(*(head[name] for name in names)) + data[snapshot.HEAD.size :]


def made_of(body: bytes) -> bytes:
    """A snapshot with that body, sealed as it should be."""
    packed = lz4.frame.compress(body)
    return snapshot.HEAD.pack(snapshot.MAGIC, snapshot.FORMAT, snapshot.FAST_CODEC, 3, 11, zlib.crc32(packed)) + packed


def pickles_of(*pickles: bytes, index: bytes | None = None) -> bytes:
    """A snapshot of variables a, b, … with these pickles."""
    entries = ",".join(f'["{chr(97 + i)}",{len(pickle)}]' for i, pickle in enumerate(pickles))
    text = f"[{entries}]".encode() if index is None else index
    return made_of(b"".join(pickles) + text + struct.pack("!I", len(text)))


class TestPoisoned:
    @pytest.mark.parametrize(
        ("data", "why"),
        [
            (b"", "no snapshot"),
            (b"\x00" * 1000, "no snapshot"),
            (snapshot.MAGIC, "no snapshot"),
            (resealed(made_of(b""), form=9), "no snapshot"),
            (resealed(made_of(b""), codec=7), "no snapshot"),
            (resealed(made_of(b""), minor=99), "another version of Python"),
            (made_of(b"x" * 100)[:-3], "damaged"),
            (made_of(b"x" * 100) + b"more", "damaged"),
            (made_of(b""), "damaged"),
            (made_of(b"\xff" * 8), "damaged"),
            (resealed(made_of(b""), codec=1), "damaged"),
            (pickles_of(b"N.", index=b'[["a",-5]]'), "damaged"),
            (pickles_of(b"N.", index=b'[["a",99]]'), "damaged"),
            (pickles_of(b"N.", index=b"{}"), "damaged"),
            (pickles_of(b"N.", index=b"[" * 50_000), "damaged"),
        ],
    )
    async def test_no_snapshot(self, interpreter: Interpreter, data: bytes, why: str) -> None:
        interpreter.snapshot = data
        result = await interpreter.result("print([name for name in globals() if name[0] != '_'])\nx = 1")
        assert (result.status, result.stdout, interpreter.kept) == ("ok", "[]\n", True)
        assert result.state is not None
        assert not result.state.restored
        assert why in result.state.problem

    async def test_pickles_that_are_none(self, interpreter: Interpreter) -> None:
        interpreter.snapshot = pickles_of(b"N.", b"garbage", b"cno.such\nmodule\n.", b"]", b"I5\n.")
        result = await interpreter.result("print({name: value for name, value in globals().items() if name[0] != '_'})")
        assert result.stdout == "{'a': None, 'e': 5}\n"
        assert result.state is not None
        assert [item.name for item in result.state.skipped] == ["b", "c", "d"]

    async def test_a_bomb(self, executor: LocalExecutor, py: Language) -> None:
        if executor.level != "strong":
            pytest.skip("needs a hard limit of memory")
        session = Interpreter(executor, py)
        session.snapshot = made_of(bytes(1 << 30))
        result = await session.result("print('on')")
        assert (result.status, result.stdout) == ("ok", "on\n")
        assert result.state is not None
        assert "not loaded" in result.state.problem


HOSTILE = "class Hostile:\n    def __reduce__(self): return eval, ({!r},)\nh = Hostile()\n"


class TestHostile:
    async def test_loading_that_hangs(self, impatient: LocalExecutor, py: Language) -> None:
        session = Interpreter(impatient, py)
        await session.state(HOSTILE.format("any(iter(int, 1))") + "x = 1")
        files = {"dir/file": b"content"}
        code = "import sys\nprint(open('dir/file').read(), 'x' in globals(), sys.stdin.read())"
        result = await session.result(code, files=files, stdin="in")
        assert (result.status, result.stdout) == ("ok", "content False in\n")
        assert result.state is not None
        assert result.state.problem == "earlier variables were not loaded: loading it took too long"
        assert result.skipped == ()

    @pytest.mark.parametrize("end", ["__import__('os')._exit(0)", "__import__('os').kill(__import__('os').getpid(), 9)"])
    async def test_loading_that_ends_the_process(self, at_level: LocalExecutor, py: Language, end: str) -> None:
        session = Interpreter(at_level, py)
        await session.state(HOSTILE.format(end) + "x = 1")
        result = await session.result("print('x' in globals())\ny = 1", files={"main.txt": b""})
        assert (result.status, result.stdout, session.kept) == ("ok", "False\n", True)
        assert result.state is not None
        assert result.state.problem == "earlier variables were not loaded: the process that loaded it ended"
        assert await session.printed("print(y)") == "1\n"

    async def test_loading_that_exits_or_writes(self, interpreter: Interpreter) -> None:
        await interpreter.state(HOSTILE.format("print('x' * 100_000) or __import__('sys').exit(7)") + "x = 1")
        result = await interpreter.result("print(x)")
        assert (result.status, result.stdout, result.stderr) == ("ok", "1\n", "")

    async def test_pickling_that_hangs(self, impatient: LocalExecutor, py: Language) -> None:
        session = Interpreter(impatient, py)
        code = "class H:\n  def __getstate__(self):\n    while True: pass\nh = H()\nopen('out', 'w').write('x')\nprint('done')"
        workspace = MemoryWorkspace(state_bytes=1 << 20)
        result = await run(impatient, py, Job(id="job", tenant="t", lang="py", code=code), workspace)
        assert (result.status, result.stdout, workspace.kept, workspace.snapshot) == ("ok", "done\n", {"out": b"x"}, None)
        assert result.state is not None
        assert result.state.problem == "variables were not kept: pickling them took too long"
        assert result.usage.ran_ms < SHORT_S * 1000
        assert await session.printed("print('next')") == "next\n"

    @pytest.mark.parametrize(
        ("action", "why"),
        [
            ("os._exit(0)", "the process ended"),
            ("os.kill(os.getpid(), 9)", "the process ended"),
            ("os.write(3, frame({'type': 'taken', 'size': 1 << 40})); time.sleep(60)", "something else"),
            ("os.write(3, frame({'type': 'taken', 'problem': 'buy now'})); time.sleep(60)", "could not pickle"),
            ("os.write(3, frame({'type': 'taken', 'size': 0})); time.sleep(60)", "something else"),
            ("os.write(3, frame({'type': 'state'}, b'x')); time.sleep(60)", "something else"),
            ("os.closerange(4, 256)", "could not pickle"),
            ("own = os.open('mine', os.O_RDWR | os.O_CREAT); [os.dup2(own, fd) for fd in range(4, 64)]", "could not pickle"),
        ],
    )
    async def test_pickling_that_lies(self, at_level: LocalExecutor, py: Language, action: str, why: str) -> None:
        code = f"""
import json, os, struct, time
def frame(header, body=b""):
    head = json.dumps(header).encode()
    return struct.pack("!II", len(head), len(body)) + head + body
class H:
    def __getstate__(self): {action}
h = H()
print("done")
"""
        session = Interpreter(at_level, py)
        result = await session.result(code)
        assert (result.status, result.exit_code, result.stdout, session.kept) == ("ok", 0, "done\n", False)
        assert result.state is not None
        assert why in result.state.problem

    async def test_a_snapshot_of_its_own_making_is_its_own_trouble(self, interpreter: Interpreter) -> None:
        code = """
import os, struct, time
class H:
    def __getstate__(self):
        taken = b'{"type":"taken","size":4,"skipped":[["a"],["b","c","d"],[1,2],["e","f"]]}'
        for fd in range(4, 64):
            try: os.pwrite(fd, b"mine", 0)
            except OSError: pass
        os.write(3, struct.pack("!II", len(taken), 0) + taken)
        time.sleep(60)
h = H()
"""
        state = await interpreter.state(code)
        assert [item.name for item in state.skipped] == ["e"]
        assert interpreter.snapshot == b"mine"
        assert "no snapshot" in (await interpreter.state("")).problem

    async def test_pickling_without_end_of_memory(self, executor: LocalExecutor, py: Language) -> None:
        if executor.level != "strong":
            pytest.skip("needs a hard limit of memory")
        session = Interpreter(executor, py)
        result = await session.result(
            "class H:\n  def __getstate__(self): return [bytearray(1 << 20) for _ in range(2000)]\nh = H()\nprint(1)"
        )
        assert (result.status, result.stdout, session.kept) == ("ok", "1\n", False)

    async def test_builtins_that_were_replaced(self, interpreter: Interpreter) -> None:
        code = """
import builtins, json, pickle, sys, zlib
x = 1
for module in (json, pickle, zlib): module.__dict__.clear()
sys.modules.clear()
builtins.len = None
"""
        result = await interpreter.result(code)
        assert (result.status, interpreter.kept) == ("ok", False)
        assert result.state is not None
        assert "variables were not kept" in result.state.problem
