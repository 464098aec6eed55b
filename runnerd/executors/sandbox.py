"""A sandbox behind a wire: the same for every executor, since the same agent is at the other end."""

import contextlib
from collections.abc import AsyncIterator

import msgspec

from ..agent.frames import Header
from ..errors import NotBegun, Rejected, SandboxLost
from ..job import Event, Job, Limits, Reuse, SandboxInfo
from ..spec import Language, Workspace
from ..stdin import Stdin
from ..tools import Tools
from . import inputs, request
from .outcome import Outcome
from .outputs import KINDS, Outputs
from .present import Present
from .wire import Wire


class AgentSandbox:
    """A lease on an agent: of one of its cells, or of the pod that it is alone in."""

    def __init__(self, executor: str, wire: Wire, ready: Header, cpu_cores: float, overtime_s: float) -> None:
        """`overtime_s`: how long the agent may be waited for in all, beyond the job's own time."""
        self.tenant: str = ready["tenant"]
        self._tmp: str = ready["tmp"]
        self.kept = False
        self._present = Present()
        self._served = 0
        self._reused: Reuse = "job"
        """What it serves from the job on that runs."""
        self._nests: bool = ready.get("nests", False)
        self._knows_tools: bool = ready.get("tools", False)
        self._wire = wire
        self._cpu_cores = cpu_cores
        self._overtime_s = overtime_s
        self._info = SandboxInfo(
            executor=executor,
            level=ready["level"],
            warm=True,
            enforced=tuple(ready["enforced"]),
            missing=tuple(ready["missing"]),
        )

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
        with contextlib.ExitStack() as held:
            self._wire.patience_s = request.longest_s(language, limits, tools) + self._overtime_s
            outputs = await self._ask(held, job, language, limits, workspace, stdin, tools)
            outcome = Outcome(job, limits, msgspec.structs.replace(self._info, reuse=self._reused, served=self._served))
            self._served += 1
            begun = False
            while True:
                header, body = await self._receive(begun)
                begun = begun or header["type"] == "started"
                if header["type"] == "done":
                    self.kept = self._present.end(header) and not job.interactive  # of what may come late for it, nothing goes to another
                    self._wire.patience_s = None  # whoever guards a sandbox that is kept waits as long as it is
                    break
                if tools is not None and header["type"] == "call":
                    call = tools.heard(body, more=header.get("more", False), cut=header.get("cut", False))
                    if call is not None:
                        yield call
                    continue
                if outputs is not None and header["type"] in KINDS:
                    await outputs.take(header, body)
                    continue
                self._present.hear(header)
                for event in outcome.feed(header, body):
                    if job.stream:
                        yield event
            result = outcome.result()
            yield result if outputs is None else outputs.added(result)

    async def _ask(
        self,
        held: contextlib.ExitStack,
        job: Job,
        language: Language,
        limits: Limits,
        workspace: Workspace | None,
        stdin: Stdin | None,
        tools: Tools | None,
    ) -> Outputs | None:
        """Send the job, and all that it is to find; returns where what it leaves goes. `held`: what is given back after it."""
        wire = self._wire
        if tools is not None:
            self._open(tools)
        self.kept, reuse = False, self._reuse(language, workspace)
        self._reused = reuse
        outputs = None
        if workspace is None:
            wire.send_all(request.build(job, language, limits, self._cpu_cores, self._tmp, tools=tools, keep=reuse))
        else:
            present = self._present if reuse == "session" else None
            asked = request.Asked(job, language, workspace, present)
            slate = asked.slate() if wire.shares else None
            outputs = Outputs(wire, workspace, request.stateful(language, workspace), present, slate)
            frames = request.build(job, language, limits, self._cpu_cores, self._tmp, asked, tools, keep=reuse)
            if slate is None:
                wire.send_all(frames)
            else:
                held.callback(slate.close)
                wire.share(frames, slate.fd)
            await inputs.send(wire, asked.contents(), slate)
            wire.send_all(request.stdin(job))
        if stdin is not None:
            kept, ended = stdin.open(self._feed)
            wire.send_all([*request.piece(kept), *((request.END_OF_INPUT,) if ended else ())])
        return outputs

    def _reuse(self, language: Language, workspace: Workspace | None) -> Reuse:
        """What the sandbox serves from this job on: as the language says, where the job has a session, or the agent can do it."""
        if language.reuse == "session":
            return "job" if workspace is None else "session"
        return "tenant" if language.reuse == "tenant" and self._nests else "job"

    async def _receive(self, begun: bool) -> tuple[Header, bytes]:
        try:
            return await self._wire.receive()
        except SandboxLost as error:
            raise error if begun else NotBegun(str(error)) from error

    async def _feed(self, data: bytes, end: bool) -> None:
        for frame in (*request.piece(data), *((request.END_OF_INPUT,) if end else ())):
            await self._wire.send(frame)

    def _open(self, tools: Tools) -> None:
        if not self._knows_tools:
            raise Rejected("tools: the agent in this sandbox is older than this daemon, and knows none: renew the image that it came with")
        tools.open(lambda line: self._wire.send_all(request.answer(line)))

    async def lost(self) -> str:
        """Wait until the agent hangs up; returns why."""
        return await self._wire.wait_closed()
