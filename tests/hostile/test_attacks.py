"""Every attack at every level: it ends as it must, its neighbour notices nothing, and nothing is left over."""

import asyncio
import os
import re
import secrets
import shutil
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from conftest import CELLS, LOCAL, ExecutorAt
from hostile.attack import ISOLATED, LIMITS, NAMESPACED, Attack
from hostile.attacks import ALL
from runnerd import Job, Language, Result
from runnerd.agent import cgroup_places, syscalls
from runnerd.executors.local import LocalExecutor

AT_MOST_S = 30
SETTLED_S = 15
ALL_READY = 1 + 2 * CELLS
"""Processes below an agent: its master, and in each cell PID 1 and a child that waits."""
STRONGEST = "strong" if os.geteuid() == 0 else "userns"
SKIPPED = {syscalls.numbers().get(name, -1) for name in ("exit", "exit_group", "rt_sigreturn", "fork", "vfork", "clone")}
SKIPPED |= {syscalls.numbers().get(name, -1) for name in ("pause", "select", "pselect6", "ppoll", "msgrcv")}
SKIPPED |= {335, 336} if syscalls.MACHINE == "x86_64" else set()


LEVELS = [pytest.param(level, marks=[pytest.mark.slow] if level == "landlock" else []) for level in ISOLATED]


class Bait(NamedTuple):
    """What is planted on the host: none of it may be read, written, reached or ended by a job."""

    directory: Path
    secret: str
    listeners: tuple[socket.socket, ...]
    process: asyncio.subprocess.Process
    abstract: str

    def fill_in(self, code: str, executor: LocalExecutor) -> str:
        """The program with the places of all that is planted."""
        agent = executor._agent
        assert agent is not None
        values = {
            "SECRET": str(self.directory / "secret"),
            "DIRECTORY": str(self.directory),
            "PORT": str(self.listeners[0].getsockname()[1]),
            "ABSTRACT": self.abstract,
            "SOCKET": str(agent.socket),
            "AGENT": str(agent.pid),
            "PID": str(self.process.pid),
            "SKIPPED": repr(SKIPPED),
            **{name: str(number) for name, number in syscalls.numbers().items()},
        }
        return re.sub(r"@(\w+)@", lambda match: values[match[1]], code)

    def untouched(self) -> bool:
        """Whether nobody wrote, connected or killed."""
        for listener in self.listeners:
            try:
                listener.accept()[0].close()
            except BlockingIOError:
                continue
            return False
        names = sorted(path.name for path in self.directory.iterdir())
        return names == ["secret", "socket"] and (self.directory / "secret").read_text() == self.secret and self.process.returncode is None


@pytest.fixture(scope="module")
async def bait(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bait]:
    directory = tmp_path_factory.mktemp("bait")
    for path in (directory, *directory.parents):
        if path.is_relative_to("/tmp") and path != Path("/tmp"):
            path.chmod(0o777)
    secret = secrets.token_hex(12)
    (directory / "secret").write_text(secret)
    (directory / "secret").chmod(0o666)
    abstract = f"runnerd-bait-{os.getpid()}"
    process = await asyncio.create_subprocess_exec("/bin/cat", stdin=asyncio.subprocess.PIPE, env={"SECRET": secret})
    async with AsyncExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0)))]
        for name in ("\0" + abstract, str(directory / "socket")):
            listeners.append(stack.enter_context(socket.socket(socket.AF_UNIX)))
            listeners[-1].bind(name)
            listeners[-1].listen()
        (directory / "socket").chmod(0o777)
        for listener in listeners:
            listener.setblocking(False)
        yield Bait(directory, secret, tuple(listeners), process, abstract)
    if process.returncode is None:
        process.kill()
    await process.wait()


# What may not be left over


class State(NamedTuple):
    """Everything that an executor holds on this machine while it is idle; nothing of other programs is counted."""

    agent: int | None
    agent_descriptors: int
    our_descriptors: int
    processes: int
    strays: int
    groups: int
    mounts: int


def _state(executor: LocalExecutor) -> State:
    agent = executor.agent_pid
    tree, ours = _descendants(agent or -1), _descendants(os.getpid())
    uids = {LOCAL.uid_base + number for number in range(CELLS)} | ({LOCAL.user} if executor.level != "strong" else set())
    return State(
        agent=agent,
        agent_descriptors=_count(f"/proc/{agent}/fd"),
        our_descriptors=_count("/proc/self/fd"),
        processes=len(tree),
        strays=len([pid for pid in _processes() if pid not in ours and _uid(pid) in uids and _parent(pid) == 1]),
        groups=sum(_groups(place, agent) for place in set(cgroup_places.own_directories().values())),
        mounts=Path("/proc/self/mountinfo").read_text().count(f" {executor._directory}/"),
    )


def _groups(place: str, agent: int | None) -> int:
    if not os.path.isdir(place):
        return 0
    return sum(1 + len([entry for entry in path.iterdir() if entry.is_dir()]) for path in Path(place).glob(f"runnerd-{agent}-*"))


def _count(directory: str) -> int:
    try:
        return len(os.listdir(directory))
    except OSError:
        return -1


def _processes() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _uid(pid: int) -> int:
    try:
        return int(re.search(r"Uid:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])  # type: ignore[index]
    except OSError:
        return -1


def _parent(pid: int) -> int:
    """Who started a process, 1 once that one is gone; -1 where the process itself is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return -1


def _descendants(pid: int) -> set[int]:
    children: dict[int, list[int]] = {}
    for process in _processes():
        children.setdefault(_parent(process), []).append(process)
    found, ahead = set(), list(children.get(pid, ()))
    while ahead:
        found.add(ahead[-1])
        ahead += children.get(ahead.pop(), ())
    return found


async def _settles(executor: LocalExecutor, wanted: State) -> State:
    """Wait until the executor holds no more than wanted; returns what it does in the end."""
    deadline = time.monotonic() + SETTLED_S  # one look at a busy machine's processes may take a second
    while not _no_more(state := _state(executor), wanted) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    return state


def _no_more(state: State, wanted: State) -> bool:
    """Whether nothing is left over: the same agent, and no count has grown."""
    return state.agent == wanted.agent and all(now <= before for now, before in zip(state[1:], wanted[1:], strict=True))


@pytest.fixture(scope="module")
def idle_states() -> dict[str, State]:
    """By level: the state once every cell was made and used, and waits."""
    return {}


async def _use_all(executor: LocalExecutor, python: Language) -> None:
    """Run a job in every cell, all at the same time."""
    every = asyncio.Barrier(CELLS)

    async def use() -> None:
        async with asyncio.timeout(AT_MOST_S), executor.sandbox(python) as sandbox:
            await every.wait()
            async for _ in sandbox.run(_job(""), python, LIMITS):
                pass

    async with asyncio.TaskGroup() as tasks:
        for _ in range(CELLS):
            tasks.create_task(use())


async def _idle(executor: LocalExecutor, python: Language, states: dict[str, State]) -> State:
    if executor.level not in states:
        await _use_all(executor, python)
        before = None
        async with asyncio.timeout(AT_MOST_S):
            while (state := _state(executor)) != before or state.processes != ALL_READY:  # cells are being made again, or children
                before = state
                await asyncio.sleep(0.2)
        states[executor.level] = state
    return states[executor.level]


# Running


async def _run(executor: LocalExecutor, language: Language, job: Job, **limits: float) -> Result:
    result = None
    async with asyncio.timeout(AT_MOST_S), executor.sandbox(language) as sandbox:
        async for event in sandbox.run(job, language, msgspec.structs.replace(LIMITS, **limits)):
            result = event
    assert isinstance(result, Result)
    return result


def _job(code: str, tenant: str = "mallory", lang: str = "py", **fields: object) -> Job:
    return Job(id=secrets.token_hex(4), tenant=tenant, lang=lang, code=code, **fields)  # type: ignore[arg-type]


async def _neighbour(executor: LocalExecutor, python: Language) -> str:
    result = await _run(executor, python, _job("print(sum(range(1000)))", tenant="alice"))
    return f"{result.status} {result.stdout.strip()} {result.stderr}".strip()


def _cases() -> Iterator[object]:
    """Level by level: what another level's executor opens must not be taken for something left over."""
    for level in ISOLATED:
        marks = [] if level == STRONGEST else [pytest.mark.slow]
        for attack in [attack for attack in ALL if level in attack.levels]:
            yield pytest.param(attack, level, id=f"{level}-{attack.name.replace(' ', '_')}", marks=marks)


@pytest.mark.parametrize(("attack", "level"), list(_cases()))
async def test_attack(
    attack: Attack,
    level: str,
    executor_at: ExecutorAt,
    languages: dict[str, Language],
    bait: Bait,
    idle_states: dict[str, State],
) -> None:
    if attack.lang == "c" and shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    executor, python = await executor_at(level), languages["py"]
    before = await _idle(executor, python, idle_states)
    job = _job(bait.fill_in(attack.program, executor), lang=attack.lang, env=attack.env, args=attack.args, files=attack.files)
    async with asyncio.TaskGroup() as tasks:
        attacked = tasks.create_task(_run(executor, languages[attack.lang], job, **attack.limits))
        neighbour = tasks.create_task(_neighbour(executor, python))
    result = attacked.result()
    assert attack.holds(result), _shown(result)
    assert neighbour.result() == "ok 499500"
    assert bait.secret not in result.stdout + result.stderr
    assert bait.untouched()
    await _use_all(executor, python)
    after = await _settles(executor, before)
    assert _no_more(after, before), f"{before} became {after}"


def _shown(result: Result) -> str:
    return "\n".join(
        [
            f"{result.status} limit={result.limit} exit={result.exit_code} signal={result.signal} {result.reason} {result.usage}",
            result.stdout[-3000:],
            result.stderr[-3000:],
            str(result.compile)[:2000],
            str([file.name for file in result.files][:80]),
            str(result.skipped[:20]),
        ]
    )


# Two jobs and what they could tell each other

LEAVE = """
import ctypes, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
left = []
def leave(what, attempt):
    try: attempt(); left.append(what)
    except OSError: pass
here, home = os.getcwd(), os.environ["HOME"]
for path in (here, home, "/tmp", "/var/tmp", "/dev/shm", "/run/lock", home + "/.config", here + "/__pycache__"):
    def write():
        os.makedirs(path, exist_ok=True)
        with open(path + "/@MARK@", "w") as file: file.write("@MARK@")
    leave(path, write)
def sysv(call, *args):
    if call(0x5EED, *args) < 0: raise OSError
leave("shm", lambda: sysv(libc.shmget, 4096, 0o1666))
leave("sem", lambda: sysv(libc.semget, 1, 0o1666))
leave("msg", lambda: sysv(libc.msgget, 0o1666))
leave("mq", lambda: sysv(lambda _, *a: libc.mq_open(b"/@MARK@", *a), 0o102, 0o666, None))
leave("key", lambda: sysv(lambda _, *a: libc.syscall(@add_key@, *a), b"user", b"@MARK@", b"x", 1, -3))
leave("abstract", lambda: (s := socket.socket(socket.AF_UNIX), globals().update(kept=s), s.bind("\\0@MARK@"), s.listen()))
import random, builtins
builtins.mark = "@MARK@"; os.environ["MARK"] = "@MARK@"; sys.modules["@MARK@"] = sys
os.umask(0)
print("left", left, flush=True)
"""
LOOK = """
import ctypes, os, socket, sys, builtins
libc = ctypes.CDLL(None, use_errno=True)
found = []
for top in (os.getcwd(), os.environ["HOME"], "/tmp", "/var/tmp", "/dev/shm", "/run"):
    for path, directories, files in os.walk(top):
        found += [path + "/" + name for name in directories + files if "@MARK@" in name]
for name, got in (("shm", libc.shmget(0x5EED, 0, 0)), ("sem", libc.semget(0x5EED, 0, 0)), ("msg", libc.msgget(0x5EED, 0)),
                  ("mq", libc.mq_open(b"/@MARK@", 0)), ("key", libc.syscall(@request_key@, b"user", b"@MARK@", None, 0))):
    if got >= 0: found.append(name)
try:
    with socket.socket(socket.AF_UNIX) as client: client.connect("\\0@MARK@"); found.append("abstract")
except OSError: pass
if hasattr(builtins, "mark") or "MARK" in os.environ or "@MARK@" in sys.modules: found.append("interpreter")
print("found", found, os.umask(0o22) == 0o22)
"""


@pytest.mark.parametrize("level", LEVELS)
async def test_nothing_stays_for_the_next_job(level, executor_at, languages, bait):
    """Of the same tenant, in every cell (T-16, T-36)."""
    executor = await executor_at(level)
    mark = "mark" + secrets.token_hex(4)
    for code, expected in ((LEAVE, "left ["), (LOOK, "found [] True")):
        program = bait.fill_in(code.replace("@MARK@", mark), executor)
        async with asyncio.TaskGroup() as tasks:
            results = [tasks.create_task(_run(executor, languages["py"], _job(program))) for _ in range(CELLS)]
        for result in results:
            assert result.result().stdout.startswith(expected), _shown(result.result())


@pytest.mark.parametrize("level", LEVELS)
async def test_jobs_at_the_same_time_share_nothing(level, executor_at, languages, bait):
    """One leaves all that it can and stays; the other looks (T-17, T-36)."""
    executor, python = await executor_at(level), languages["py"]
    mark = "mark" + secrets.token_hex(4)
    leave = bait.fill_in(LEAVE.replace("@MARK@", mark) + "\nsys.stdin.read()\nimport time\ntime.sleep(600)\n", executor)
    look = bait.fill_in(LOOK.replace("@MARK@", mark), executor)
    async with asyncio.timeout(AT_MOST_S), executor.sandbox(python) as first:
        events = first.run(_job(leave, stream=True), python, LIMITS)
        async for event in events:
            if "left [" in getattr(event, "text", ""):
                break
        result = await _run(executor, python, _job(look, tenant="alice"))
        await events.aclose()
    assert result.stdout.startswith("found [] "), _shown(result)


@pytest.mark.parametrize("level", NAMESPACED)
async def test_random_numbers_differ_between_jobs(level, executor_at, languages):
    """Forks of one interpreter draw each their own."""
    executor = await executor_at(level)
    code = "import random, os, secrets, uuid\nprint(random.random(), secrets.token_hex(8), uuid.uuid4())\n"
    drawn = []
    for _ in range(2):
        async with asyncio.TaskGroup() as tasks:
            results = [tasks.create_task(_run(executor, languages["py"], _job(code))) for _ in range(CELLS)]
        drawn += [word for result in results for word in result.result().stdout.split()]
    assert len(set(drawn)) == 3 * 2 * CELLS


@pytest.mark.skipif(sys.platform != "linux", reason="sandboxes are made of Linux")
def test_every_attack_has_a_name_of_its_own():
    names = [attack.name for attack in ALL]
    assert len(set(names)) == len(names)


def test_the_table_names_every_case_and_every_attack():
    lines = (Path(__file__).parent / "README.md").read_text().splitlines()
    rows = {line.split(" | ")[0].strip("| "): line for line in lines if line.startswith("| T-")}
    assert list(rows) == [f"T-{number:02}" for number in range(1, 67)]
    assert [(case, attack.name) for attack in ALL for case in attack.cases.split() if attack.name not in rows[case]] == []
