"""What is saved where variables go from job to job: what did not change is not sent back, what does not shrink is not compressed."""

import asyncio
import os
import struct
from collections.abc import Iterator

import pytest

from conftest import ExecutorAt
from hosting import hosted
from memory_workspace import Interpreter
from runnerd import Job, Language, Result
from runnerd.agent import snapshot, variables
from runnerd.agent.frames import CHUNK, HEAD, FrameError, Header, Unpacker, pack
from runnerd.agent.keeping import Keeping
from runnerd.agent.loop import HIGH_WATER, Loop, Outbox
from runnerd.agent.slate import Slate
from runnerd.config import load_config
from runnerd.daemon import Daemon, open_daemon
from runnerd.executors.local import LocalExecutor
from runnerd.plugins import find_plugins

LARGE = 1 << 20
RANDOM = f"import os; data = os.urandom({LARGE})"


@pytest.mark.parametrize("level", ["strong", "userns", "landlock", "process"])
async def test_what_did_not_change_is_not_sent_back(level: str, executor_at: ExecutorAt, py: Language) -> None:
    session = Interpreter(await executor_at(level), py, 4 << 20)
    await session.result(f"{RANDOM}; n = 1; s = 'x' * 10")
    first = session.snapshot
    assert await session.printed("print(len(data), n, s)") == f"{LARGE} 1 xxxxxxxxxx\n"
    assert (session.kept, session.snapshot) == (False, first)
    assert await session.printed("n += 1; print(n)") == "2\n"
    assert session.kept
    assert session.snapshot != first
    assert await session.printed("print(n, len(data))") == f"2 {LARGE}\n"
    assert not session.kept
    await session.result("del data")
    assert session.kept, "fewer variables are another snapshot"
    await session.result("1 / 0")
    assert not session.kept


async def test_what_does_not_shrink_is_not_compressed(executor: LocalExecutor, py: Language) -> None:
    session = Interpreter(executor, py, 8 << 20)
    await session.result(f"{RANDOM}; hash_ = hash(data)")
    assert session.snapshot is not None
    assert session.snapshot[len(snapshot.MAGIC) + 1] == snapshot.NO_CODEC
    assert LARGE < len(session.snapshot) < LARGE + 1000
    await session.result(f"data = bytes({4 * LARGE})")
    assert session.snapshot[len(snapshot.MAGIC) + 1] == snapshot.FAST_CODEC
    assert len(session.snapshot) < LARGE / 4
    assert await session.printed(f"print(data == bytes({4 * LARGE}))") == "True\n"


async def test_what_would_be_too_large_otherwise_is_compressed(executor: LocalExecutor, py: Language) -> None:
    session = Interpreter(executor, py, LARGE)
    await session.result(f"import os; data = os.urandom({LARGE // 2}); zeros = bytes({2 * LARGE})")
    assert session.snapshot is not None
    assert session.snapshot[len(snapshot.MAGIC) + 1] == snapshot.FAST_CODEC
    assert await session.printed("print(len(data) + len(zeros))") == f"{LARGE // 2 + 2 * LARGE}\n"


async def test_a_snapshot_that_is_damaged_is_told_without_compression_too(executor: LocalExecutor, py: Language) -> None:
    session = Interpreter(executor, py, 8 << 20)
    await session.result(RANDOM)
    assert session.snapshot is not None
    for damaged in (session.snapshot[:-1], session.snapshot[:500] + bytes([session.snapshot[500] ^ 1]) + session.snapshot[501:]):
        other = Interpreter(executor, py)
        other.snapshot = damaged
        info = await other.state("x = 1")
        assert not info.restored
        assert "damaged" in info.problem


@pytest.fixture
def pieces() -> Iterator[list[bytes]]:
    yield [b"head", os.urandom(CHUNK + 5), b"", b"x" * 10, os.urandom(2 * CHUNK)]
    variables.brought.remember(b"")


def test_a_snapshot_stays_only_where_it_is_the_same(pieces: list[bytes]) -> None:
    whole, taken = b"".join(pieces), snapshot.Taken(pieces, [])
    for brought, stays in ((whole, True), (whole[:-1], False), (whole + b"x", False), (b"", False), (b"y" + whole[1:], False)):
        variables.brought.remember(brought)
        assert variables.brought.stays(taken) is stays
        assert not variables.brought.stays(taken), "asked once"


class Executor:
    """Whoever is told of snapshots, and takes so many bytes of them before there has to be room again."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.room = room
        self.said: list[Header] = []
        self.got = b""

    def emit(self, header: Header, body: bytes = b"") -> None:
        self.said.append(header)
        self.got += body

    @property
    def full(self) -> bool:
        return len(self.got) >= self.room


@pytest.mark.parametrize(("load", "stays", "believed"), [(True, True, True), (True, False, False), (False, True, False)])
def test_a_child_is_believed_only_where_it_was_told_that_it_may_say_so(load: bool, stays: bool, believed: bool) -> None:
    executor = Executor()
    keeping = Keeping({"load": load, "most": 10, "on_error": False, "stays": stays}, executor)
    assert keeping.take("taken", {"same": True, "skipped": []})
    keeping.slate.close()
    said = executor.said[0]
    assert (said.get("same", False), said["problem"]) == ((True, "") if believed else (False, "broken"))


def test_a_snapshot_goes_by_the_wire_as_fast_as_it_is_read() -> None:
    """Where executor and agent share no memory."""
    executor, snapshot_ = Executor(room=2 * CHUNK), os.urandom(5 * CHUNK + 7)
    keeping = Keeping({"load": True, "size": len(snapshot_), "most": len(snapshot_), "on_error": False}, executor)
    assert keeping.arrive({"more": True}, snapshot_[:CHUNK]) is None
    assert keeping.arrive({}, snapshot_[CHUNK:]) == {"type": "state", "size": len(snapshot_)}
    theirs = Slate(os.dup(keeping.slate.fd))
    assert theirs.read(0, len(snapshot_)) == snapshot_
    theirs.fill([snapshot_[1:], snapshot_[:1]])
    assert not keeping.take("taken", {"size": len(snapshot_), "skipped": []})
    assert len(executor.got) == 2 * CHUNK
    assert not keeping.take("taken", {"size": 1}), "what the process says meanwhile is nothing"
    executor.room = 1 << 30
    assert keeping.pour()
    assert executor.got == snapshot_[1:] + snapshot_[:1]
    assert [header.get("more", False) for header in executor.said[1:]] == [True] * 5 + [False]
    keeping.slate.close()
    theirs.close()


def test_a_slate_keeps_its_size() -> None:
    slate = Slate.make(1000)
    slate.append(b"x" * 1000)
    with pytest.raises(OSError, match="not permitted"):
        slate.append(b"x")
    for size in (999, 1001):
        with pytest.raises(PermissionError):
            os.ftruncate(slate.fd, size)
    assert slate.read(990, 100) == b"x" * 10
    slate.close()
    slate.close()


async def test_a_snapshot_that_was_never_written_is_none(executor: LocalExecutor, py: Language) -> None:
    code = """
import os, struct, time
class H:
    def __getstate__(self):
        taken = b'{"type":"taken","size":4}'
        os.write(3, (struct.pack("!II", len(taken), 0) + taken) * 2)
        time.sleep(60)
h = H()
"""
    interpreter = Interpreter(executor, py)
    await interpreter.state(code)
    assert interpreter.snapshot == bytes(4)
    assert "no snapshot" in (await interpreter.state("")).problem


@pytest.mark.parametrize("level", ["strong", "userns", "landlock", "process"])
async def test_what_hands_snapshots_over_is_no_memory_for_programs(level: str, executor_at: ExecutorAt, py: Language) -> None:
    code = """
import os, stat
def slates():
    for fd in range(4, 64):
        try: at = os.fstat(fd)
        except OSError: continue
        if stat.S_ISREG(at.st_mode) and at.st_size == 1 << 16: yield fd
def tried(fd):
    for size in (1 << 18, 1):
        try: os.ftruncate(fd, size)
        except PermissionError: pass
        else: return "its size was changed"
    try: os.pwrite(fd, b"x", 1 << 18)
    except PermissionError: return "sealed"
    return "it took more"
print(*map(tried, slates()))
del tried, slates
"""
    assert await Interpreter(await executor_at(level), py, 1 << 16).printed(code) == "sealed\n"


async def test_no_descriptor_is_left_where_snapshots_were_handed_over(executor: LocalExecutor, py: Language) -> None:
    def descriptors() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), len(os.listdir(f"/proc/{executor.agent_pid}/fd"))

    session = Interpreter(executor, py)
    await session.result("n = 0")
    before = descriptors()
    for number in range(1, 21):
        assert await session.printed("n += 1; print(n)") == f"{number}\n"
        await session.result("import os; os._exit(1)")
    async with asyncio.timeout(10):
        while descriptors() > before:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("size", [1, 7, 64, 1000, 1 << 20])
def test_frames_that_come_in_pieces(size: int) -> None:
    frames = [({"type": "state", "n": n}, os.urandom(length)) for n, length in enumerate((0, 1, 300, 5000, 0, 70_000))]
    stream = b"".join(pack(header, body) for header, body in frames)
    unpacker = Unpacker()
    assert [frame for start in range(0, len(stream), size) for frame in unpacker.feed(stream[start : start + size])] == frames
    with pytest.raises(FrameError):
        unpacker.feed(HEAD.pack(1, 1 << 30))
    with pytest.raises(FrameError):
        Unpacker().feed(HEAD.pack(4, 0) + struct.pack("!I", 0))


def test_what_is_written_in_pieces_comes_whole() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    loop = Loop()
    outbox = Outbox(loop, write)
    chunks = [os.urandom(size) for size in (1, 100_000, 0, 5, HIGH_WATER)] + [b"abc"] * 3000
    for chunk in chunks:
        outbox.write(chunk)
    assert outbox.full
    outbox.close_when_empty()
    got = bytearray()
    while not outbox.closed or len(got) < sum(map(len, chunks)):
        got += os.read(read, 1 << 16)
        outbox.writable()
    os.close(read)
    assert bytes(got) == b"".join(chunks)


async def submitted(daemon: Daemon, code: str, session: str) -> Result:
    events = [event async for event in daemon.submit(Job(lang="py", code=code, session=session))]
    assert isinstance(events[-1], Result)
    return events[-1]


async def test_the_session_keeps_what_it_has(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("stays")
    plugins = find_plugins()
    flags = [f"state_dir={directory}", "ingress.nats.enabled=no", "ingress.http.enabled=no", "isolation.minimum=process"]
    settings = load_config(plugins, flags=flags, environ={}, directory=directory).settings
    async with hosted(open_daemon(settings, plugins)) as daemon:
        first = await submitted(daemon, f"{RANDOM}; n = 1", "")
        same = await submitted(daemon, "print(n)", first.session)
        other = await submitted(daemon, "n += 1; print(n)", first.session)
        last = await submitted(daemon, "print(n, len(data))", first.session)
    assert first.state is not None
    assert same.state is not None
    assert other.state is not None
    assert (same.stdout, other.stdout, last.stdout) == ("1\n", "2\n", f"2 {LARGE}\n")
    assert (same.state.restored, same.state.problem) == (True, "")
    assert (same.state.hash, same.state.size) == (first.state.hash, first.state.size)
    assert other.state.hash != first.state.hash
    assert last.state == other.state
