"""The executor of level `gvisor`: each sandbox is a container of runsc, with a kernel of its own in user space.

The agent in it is that of a pod: PID 1, alone with one lease, which comes on its standard input. Nothing of the host is within its
reach but what the bundle shows read-only. The daemon's end takes all of it: runsc lives in a PID namespace that dies with us.
"""

import asyncio
import contextlib
import itertools
import os
import shutil
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from ..agent import cgroup
from ..agent.frames import Header
from ..agent.options import POD, Options
from ..errors import SandboxError, SandboxLost
from ..job import Event, Job, Limits, Result
from ..nursery import open_nursery
from ..spec import Language, Workspace
from ..stdin import Stdin
from ..tools import Tools
from . import archive, bundle, canaries
from .local import GVISOR, LocalSettings, find_python, overtime_s, run_probe, workplace
from .sandbox import AgentSandbox
from .wire import Wire

START_S = 60.0
END_S = 3.0
"""How long runsc may take to end once the agent has; then all of it is killed."""
KERNEL_BYTES = 256 << 20
"""Memory of a sandbox besides its job's: runsc's kernel in user space, the agent, the interpreter that stands by."""
_ANY_BYTES = 1 << 40
LAUNCH = ("setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
LAST_WORDS = 300
"""Bytes that are told of what runsc and the agent have to say: it begins with what is wrong, and may go on with all that there is."""


@asynccontextmanager
async def open_gvisor(settings: LocalSettings, slots: int, languages: Iterable[Language]) -> AsyncGenerator["GvisorExecutor"]:
    """Make sandboxes with runsc, which have to withstand the canary probes. Raises SandboxError.

    `slots` is how many sandboxes there may be at once, warm ones included.
    """
    if os.geteuid() != 0:
        raise SandboxError("local.level = gvisor needs root")
    runsc = shutil.which(settings.runsc)
    if runsc is None:
        raise SandboxError(f"local.runsc: there is no program {settings.runsc!r}: apt-get install runsc, or name another one")
    python = find_python(settings.python)
    host = bundle.shown(python, {path for language in languages for path in language.paths})
    with workplace() as directory, _groups() as groups:
        (directory / "agent").mkdir(mode=0o755)
        archive.write(directory / "agent" / "agent.pyz")
        bundle.make_root(directory / "root")
        executor = GvisorExecutor(settings, slots, runsc, python, host, directory, groups)
        await executor.prove()
        yield executor


@contextmanager
def _groups() -> Iterator[cgroup.Backend | None]:
    found = cgroup.find()
    try:
        yield found
    finally:
        if found is not None:
            found.close()


class SharelessWire(Wire):
    """A wire to another kernel: no descriptor goes over."""

    @property
    def shares(self) -> bool:
        """Never."""
        return False


class GvisorExecutor:
    """Makes sandboxes out of runsc's containers."""

    name = "local"
    level = GVISOR

    def __init__(
        self,
        settings: LocalSettings,
        slots: int,
        runsc: str,
        python: str,
        host: list[str],
        directory: Path,
        groups: cgroup.Backend | None,
    ) -> None:
        self.breaches: dict[str, list[str]] = {}
        """Probes that got through, by level tried: none, or there is no executor."""
        self.reasons: dict[str, str] = {}
        self.description: dict[str, Any] = {}
        """What the first agent said of itself: limits `enforced` and `missing`, `python` version."""
        self._settings = settings
        self._runsc = runsc
        self._python = python
        self._host = host
        self._directory = directory
        self._groups = groups
        self._numbers = itertools.count()
        self._places = asyncio.Semaphore(slots)
        self._dying: list[cgroup.Group] = []
        """Groups in which something was still dying when they were to be removed."""

    async def prove(self) -> None:
        """Run the canary probes. Raises SandboxError where one gets through, or no sandbox can be made."""
        found = await canaries.breaches(lambda program: run_probe(self, program), {})
        if found:
            raise SandboxError("local.level = gvisor: runsc's sandbox did not withstand: " + ", ".join(found))

    @asynccontextmanager
    async def sandbox(self, language: Language) -> AsyncGenerator["GvisorSandbox"]:  # noqa: ARG002 - any of them runs any language
        """A container whose agent has its interpreter ready. Raises SandboxError."""
        async with self._places, self._container() as (wire, group, words):
            try:
                async with asyncio.timeout(START_S):
                    ready, _ = await wire.receive()
            except TimeoutError:
                raise SandboxError(f"no agent in runsc was ready within {START_S:g} s") from None
            except SandboxLost:
                raise SandboxError(f"runsc made no sandbox: {await words.last()}") from None
            ready.update(self._limits(ready))
            self.description = self.description or ready
            yield GvisorSandbox(wire, ready, self._settings, group)

    def _limits(self, ready: Header) -> Header:
        """The level, and what holds besides what the agent sees to: the control group around its kernel."""
        held = () if self._groups is None else self._groups.enforced
        enforced = [*ready["enforced"], *(name for name in held if name in ready["missing"])]
        return {"level": GVISOR, "enforced": enforced, "missing": [name for name in ready["missing"] if name not in enforced]}

    @asynccontextmanager
    async def _container(self) -> AsyncIterator[tuple[SharelessWire, cgroup.Group | None, "Words"]]:
        name = f"sandbox-{next(self._numbers)}"
        place = self._directory / name
        try:
            group = None if self._groups is None else self._groups.group(name)
        except OSError as error:
            raise SandboxError(f"no control group can be made for a sandbox: {error.strerror}") from error
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = await self._launch(name, place, theirs, group)
            _, wire = await asyncio.get_running_loop().create_unix_connection(SharelessWire, sock=ours)
            async with open_nursery() as tasks:
                words = Words(process.stderr)
                heard = tasks.create_task(words.hear())
                try:
                    yield wire, group, words
                finally:
                    wire.close()
                    await _end(process)
                    heard.cancel()
        finally:
            ours.close()
            if group is not None:
                self._dying = [each for each in (*self._dying, group) if not each.remove()]
            shutil.rmtree(place, ignore_errors=True)

    def _options(self) -> Options:
        settings = self._settings
        return Options(
            level=POD,
            scratch="",
            socket="",
            cells=1,
            own_kernel=True,
            preload=settings.preload,
            workspace_bytes=settings.workspace_bytes,
            tmp_bytes=settings.tmp_bytes,
            state_s=settings.state_s,
            unclaimed_s=START_S,
        )

    async def _launch(self, name: str, place: Path, stdin: socket.socket, group: cgroup.Group | None) -> asyncio.subprocess.Process:
        """Start runsc. Raises SandboxError."""
        flags = ("--network=none", "--ignore-cgroups", f"--root={place}", *self._settings.runsc_flags)
        entries = () if group is None else tuple(group.entries())
        enter = "".join(f"echo 0 >/proc/self/fd/{fd} && " for fd in entries)
        try:
            content = bundle.config(self._directory / "root", self._directory / "agent", self._python, self._host, self._options())
            bundle.write(place, content)
            return await asyncio.create_subprocess_exec(
                "/bin/sh", "-c", f'{enter}exec "$@"', "sh", *LAUNCH, self._runsc, *flags, "run", "--bundle", str(place), name,
                stdin=stdin.fileno(), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, start_new_session=True,
                env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, pass_fds=entries,
            )  # fmt: skip
        except OSError as error:
            raise SandboxError(f"runsc could not be started: {error.strerror}: {error.filename or place}") from error


async def _end(process: asyncio.subprocess.Process) -> None:
    """Wait until runsc has ended by itself, as it does when its agent has; or kill it with all that is in there."""
    try:
        async with asyncio.timeout(END_S):
            await process.wait()
    except TimeoutError:
        pass
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()  # and with it, by --kill-child, its PID namespace
            await process.wait()


class Words:
    """What runsc says on standard error: read to its end, lest it blocks, and the first of it kept."""

    def __init__(self, stream: asyncio.StreamReader | None) -> None:
        assert stream is not None
        self._stream = stream
        self._kept = b""
        self._over = asyncio.Event()

    async def hear(self) -> None:
        """Read until there is no more."""
        while said := await self._stream.read(1 << 16):
            self._kept += said[: LAST_WORDS - len(self._kept)]
        self._over.set()

    async def last(self) -> str:
        """All of it in one line, once runsc has ended."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                await self._over.wait()
        return " ".join(self._kept.decode(errors="replace").split()) or "it says nothing"


class GvisorSandbox(AgentSandbox):
    """A lease on a container."""

    def __init__(self, wire: Wire, ready: Header, settings: LocalSettings, group: cgroup.Group | None) -> None:
        super().__init__("local", wire, ready, settings.cpu_cores, overtime_s(settings))
        self._group = group

    async def run(
        self,
        job: Job,
        language: Language,
        limits: Limits,
        workspace: Workspace | None = None,
        stdin: Stdin | None = None,
        tools: Tools | None = None,
    ) -> AsyncIterator[Event]:
        """Run the job; ends with its Result. Raises SandboxLost, Rejected, and StoreError from `workspace`."""
        try:
            if self._group is not None:
                self._group.limit((limits.memory_bytes or _ANY_BYTES) + KERNEL_BYTES, None, self._cpu_cores)
        except OSError as error:
            raise SandboxLost(f"its memory can't be limited: {error.strerror}") from error
        try:
            async for event in super().run(job, language, limits, workspace, stdin, tools):
                yield event
        except SandboxLost:
            if self._group is None or not self._group.usage().oom_kills:
                raise
            reason = f"used more than {limits.memory_bytes} bytes of memory, and its kernel with it"
            yield Result(id=job.id, status="oom", limit="memory_bytes", reason=reason, stage="run", sandbox=self._info)
