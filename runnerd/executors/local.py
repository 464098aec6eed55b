"""The local executor: sandboxes are cells of an agent on this machine, at the strongest level that holds here."""

import asyncio
import contextlib
import os
import pwd
import shutil
import sys
import tempfile
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import structlog
from msgspec import Meta, Struct

from ..agent.options import LANDLOCK, PROCESS, STRONG, USERNS, USUAL_ENV, Options
from ..errors import SandboxError, SandboxLost
from ..job import Job, Limits
from ..nursery import open_nursery
from ..spec import Executor, Language
from . import archive, canaries
from .process import AgentProcess
from .request import environment
from .sandbox import AgentSandbox
from .wire import Wire

GVISOR = "gvisor"
LEVELS = (STRONG, USERNS, LANDLOCK, PROCESS)
"""From the strongest to none at all."""
PROBE_S = 30.0
PREFIX = "runnerd-"
RESTART_S = 0.5
HANGS_S = 10.0
"""An agent that was silent for so long, and for `overtime_s`, hangs."""
DEATH_S = 0.5
"""After so long with its sockets closed, an agent that has not ended lives, and has lost one sandbox only."""

log = structlog.get_logger("runnerd.local")


class LocalSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[local]`: sandboxes on this machine."""

    level: Literal["auto", "gvisor", "strong", "userns", "landlock", "process"] = "auto"
    """Strongest isolation level to try; `auto` begins with `strong`. What was reached is found by trying. `gvisor` is that or none."""
    runsc: str = "runsc"
    """gVisor's program, for level `gvisor`: a path, or a name to be found on PATH."""
    runsc_flags: tuple[str, ...] = ()
    """What it is told besides, as `--platform=kvm`."""
    preload: Literal["none", "std", "data"] = "std"
    """What warm Python sandboxes have imported: nothing, the usual standard library, or numpy, pandas and pyplot as well."""
    python: str = ""
    """The Python that warm sandboxes run; empty takes /usr/bin/python3, else the one that runs the daemon."""
    user: int = 65_532
    """User id that the agent runs as where the daemon is root and the level is not `strong`, which needs root."""
    uid_base: int = 200_000
    """With root, sandbox n runs its jobs as this user id plus n."""
    cpu_cores: float = 1.0
    """CPU cores that one job may use."""
    workspace_bytes: int = 128 << 20
    """Size of /mnt/data in bytes; it counts as memory of the job."""
    workspace_files: int = 16_384
    """Files and directories that /mnt/data can hold."""
    tmp_bytes: int = 512 << 20
    """Size of /tmp in bytes; it counts as memory of the job."""
    state_s: Annotated[float, Meta(gt=0, le=31_536_000)] = 10.0
    """Seconds that loading a session's Python variables may take ahead of a job, and taking them after it."""
    overtime_s: Annotated[float, Meta(gt=0, le=31_536_000)] = 60.0
    """Seconds that a sandbox may take beyond its job's time to say what became of it; then it is lost. Variables have `state_s` besides.
    An agent of this machine that shows no life for so long, and for 10 s, is started anew."""
    recycle_jobs: int = 10_000
    """After so many jobs warm Python is started afresh, with new addresses and a new hash secret."""


@asynccontextmanager
async def open_local(settings: LocalSettings, slots: int, languages: Iterable[Language]) -> AsyncGenerator["LocalExecutor"]:
    """Start an agent at the strongest level that withstands the canary probes. Raises SandboxError.

    `slots` is how many sandboxes there may be at once, warm ones included.
    """
    python = find_python(settings.python)
    with workplace() as directory:
        archive.write(directory / "agent.pyz")
        executor = LocalExecutor(settings, slots, tuple(languages), python, directory)
        try:
            await executor.start()
            async with open_nursery() as tasks:
                supervisor = tasks.create_task(executor.supervise())
                try:
                    yield executor
                finally:
                    supervisor.cancel()
        finally:
            await executor.stop()


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A directory for sockets, mount points and the agent's archive, which goes with the block."""
    _sweep()
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        os.chmod(directory, 0o711)  # noqa: S103 - the agent may run as another user
        yield directory


def _sweep() -> None:
    """Remove what daemons left that were killed: their agents have ended with them."""
    for directory in Path(tempfile.gettempdir()).glob(PREFIX + "*"):
        pid = directory.name.removeprefix(PREFIX).partition("-")[0]
        if pid.isdigit() and not os.path.exists(f"/proc/{pid}") and directory.stat().st_uid == os.geteuid():
            shutil.rmtree(directory, ignore_errors=True)


def overtime_s(settings: LocalSettings) -> float:
    """How long an agent may be waited for beyond its job's time: with variables to load, and to take."""
    return settings.overtime_s + 2 * settings.state_s


def find_python(wanted: str) -> str:
    """The interpreter itself, never a shim on PATH, and one that other users may execute where there is one."""
    candidates = [wanted] if wanted else ["/usr/bin/python3", sys.executable]
    for candidate in candidates:
        real = os.path.realpath(candidate)
        if os.access(real, os.X_OK):
            return real
    raise SandboxError(f"local.python: {wanted or 'no Python'} is no program that can be run")


class LocalExecutor:
    """Makes sandboxes out of the cells of one agent, which is started again when it dies."""

    name = "local"

    def __init__(self, settings: LocalSettings, slots: int, languages: tuple[Language, ...], python: str, directory: Path) -> None:
        self.level = PROCESS
        self.python = python
        self.cpu_cores = settings.cpu_cores
        self.breaches: dict[str, list[str]] = {}
        """Probes that got through, by level tried."""
        self.reasons: dict[str, str] = {}
        """Why stronger levels could not be had."""
        self._settings = settings
        self._slots = slots
        self._paths = tuple(sorted({path for language in languages for path in language.paths}))
        self._warm_env = next((environment(language) for language in languages if language.warmup == "python"), USUAL_ENV)
        self._directory = directory
        self._agent: AgentProcess | None = None
        self._count = 0
        self._stopping = False
        self._changed = asyncio.Event()
        """Set when there is another agent than there was, or it was found that none can be started."""
        self._problem = ""
        """Why no agent starts."""

    @property
    def description(self) -> dict[str, Any]:
        """What the agent says of itself: level, limits `enforced` and `missing`, `reasons`, `python` version."""
        return self._agent.description if self._agent is not None else {}

    @property
    def agent_pid(self) -> int | None:
        """Process id of the agent."""
        return self._agent.pid if self._agent is not None else None

    async def start(self) -> None:
        """Try levels from the strongest down until one stands."""
        for level in self._candidates():
            try:
                self._agent = await self._spawn(level)
            except SandboxError as error:
                self.reasons[level] = str(error)
                continue
            self.level = level
            found = await canaries.breaches(self.probe, self.credentials(level)) if level != PROCESS else []
            if not found:
                return
            self.breaches[level] = found
            self.reasons[level] = "it did not withstand: " + ", ".join(found)
            await self._agent.end()
        raise SandboxError("no sandbox can be made here: " + "; ".join(f"{level}: {why}" for level, why in self.reasons.items()))

    def _candidates(self) -> list[str]:
        wanted = self._settings.level
        levels = LEVELS if wanted == "auto" else LEVELS[LEVELS.index(wanted) :]
        if os.geteuid() != 0:
            if STRONG in levels:
                self.reasons[STRONG] = "needs root"
            levels = tuple(level for level in levels if level != STRONG)
        return list(levels)

    async def probe(self, program: str) -> str:
        """Run a Python program in a sandbox and return what it printed; empty where the sandbox was lost."""
        return await run_probe(self, program)

    async def _spawn(self, level: str) -> AgentProcess:
        self._count += 1
        scratch = self._directory / f"agent-{self._count}"
        scratch.mkdir(mode=0o711)
        settings = self._settings
        options = Options(
            level=level,
            scratch=str(scratch),
            socket=str(scratch / "socket"),
            cells=self._slots,
            preload=settings.preload,
            paths=self._paths,
            uid_base=settings.uid_base,
            workspace_bytes=settings.workspace_bytes,
            workspace_inodes=settings.workspace_files,
            tmp_bytes=settings.tmp_bytes,
            state_s=settings.state_s,
            warm_env=self._warm_env,
            recycle_jobs=settings.recycle_jobs,
        )
        user = self.user(level)
        if user is not None:
            os.chown(scratch, user, -1)
        process = await asyncio.create_subprocess_exec(
            self.python,
            "-I",
            "-X",
            "utf8",
            str(self._directory / "agent.pyz"),
            "agent",
            options.dump(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin"},
            start_new_session=True,
            **self.credentials(level),
        )
        agent = AgentProcess(process, Path(options.socket))
        try:
            await agent.ready()
        except BaseException:
            await agent.end()
            raise
        return agent

    def user(self, level: str) -> int | None:
        """Whom the agent runs as at a level; None for ourselves."""
        return self._settings.user if os.geteuid() == 0 and level != STRONG else None

    def credentials(self, level: str) -> dict[str, Any]:
        """Arguments that start a process as that user."""
        user = self.user(level)
        if user is None:
            return {}
        try:
            group = pwd.getpwuid(user).pw_gid
        except KeyError:
            group = user
        return {"user": user, "group": group, "extra_groups": []}

    async def supervise(self) -> None:
        """Start the agent again whenever it ends by itself, or hangs. Its sandboxes are lost, and their jobs started elsewhere."""
        while True:
            agent = self._agent
            assert agent is not None
            await agent.silent(max(HANGS_S, self._settings.overtime_s))
            if self._stopping:
                return
            log.error("agent ended", pid=agent.pid, exit_code=agent.exit_code)
            await agent.end()
            while True:
                try:
                    self._agent = await self._spawn(self.level)
                    self._tell("")
                    break
                except SandboxError as error:
                    log.warning("agent does not start", reason=str(error))
                    self._tell(str(error))
                    await asyncio.sleep(RESTART_S)  # bounds how often we try

    def _tell(self, problem: str) -> None:
        self._problem = problem
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def stop(self) -> None:
        """End the agent, and with it all of its sandboxes."""
        self._stopping = True
        if self._agent is not None:
            await self._agent.end()

    @asynccontextmanager
    async def sandbox(self, language: Language) -> AsyncGenerator[AgentSandbox]:  # noqa: ARG002 - any cell runs any language
        """A cell with its standby child ready, however long that takes: also until another agent runs. Raises SandboxError."""
        loop = asyncio.get_running_loop()
        while True:
            agent = self._agent
            if agent is None:
                raise SandboxError("the agent is not running")
            try:
                _, wire = await loop.create_unix_connection(Wire, str(agent.socket))
            except OSError as error:
                await self._replaced(agent, f"the agent can't be reached: {error.strerror}")
                continue
            try:
                try:
                    ready, _ = await wire.receive()
                except SandboxLost as lost:
                    await self._replaced(agent, str(lost))
                    continue
                yield AgentSandbox(self.name, wire, ready, self.cpu_cores, overtime_s(self._settings))
                return
            finally:
                wire.close()

    async def _replaced(self, agent: AgentProcess, reason: str) -> None:
        """Wait until there is another agent. Raises SandboxError with the reason where this one lives, or why none starts."""
        try:
            async with asyncio.timeout(DEATH_S):
                await agent.ended()
        except TimeoutError:
            raise SandboxError(reason) from None
        while self._agent is agent:
            if self._problem:
                raise SandboxError(f"no agent starts: {self._problem}")
            await self._changed.wait()


async def run_probe(executor: Executor, program: str) -> str:
    """Run a Python program in a sandbox of an executor and return what it printed; empty where the sandbox was lost."""
    job = Job(id="canary", tenant="canary", lang="py", code=program)
    limits = Limits(
        wall_s=10, cpu_s=10, memory_bytes=256 << 20, processes=64, open_files=256, output_bytes=65536, file_bytes=1 << 20, files=1
    )
    printed = ""
    try:
        async with asyncio.timeout(PROBE_S), executor.sandbox(PROBE_LANGUAGE) as sandbox:
            async for event in sandbox.run(job, PROBE_LANGUAGE, limits):
                printed = str(getattr(event, "stdout", ""))
    except SandboxLost:
        return ""
    except TimeoutError:
        raise SandboxError(f"a probe did not end within {PROBE_S:g} s") from None
    return printed


PROBE_LANGUAGE = Language(
    code="py",
    name="Python",
    filename="main.py",
    run=("python3", "{file}"),
    image="",
    warmup="python",
    version=("python3", "--version"),
    hello="",
)
"""What the canary probes are written in."""
