"""A sandbox behind a wire: the same for every executor, since the same agent is at the other end."""

from collections.abc import AsyncIterator

from ..agent.frames import Header
from ..job import Event, Job, Limits, SandboxInfo
from ..spec import Language, Workspace
from ..stdin import Stdin
from . import inputs, request
from .outcome import Outcome
from .outputs import KINDS, Outputs
from .wire import Wire


class AgentSandbox:
    """A lease on an agent: of one of its cells, or of the pod that it is alone in."""

    def __init__(self, executor: str, wire: Wire, ready: Header, cpu_cores: float) -> None:
        self.tenant: str = ready["tenant"]
        self._tmp: str = ready["tmp"]
        self._wire = wire
        self._cpu_cores = cpu_cores
        self._info = SandboxInfo(
            executor=executor,
            level=ready["level"],
            warm=True,
            enforced=tuple(ready["enforced"]),
            missing=tuple(ready["missing"]),
        )

    async def run(
        self, job: Job, language: Language, limits: Limits, workspace: Workspace | None = None, stdin: Stdin | None = None
    ) -> AsyncIterator[Event]:
        """Run the job; ends with its Result. Raises SandboxLost, and StoreError from `workspace`."""
        wire = self._wire
        outputs = None
        if workspace is None:
            wire.send_all(request.build(job, language, limits, self._cpu_cores, self._tmp))
        else:
            outputs = Outputs(wire, workspace, stateful=request.stateful(language, workspace))
            await self._bring(job, language, limits, workspace)
        if stdin is not None:
            kept, ended = stdin.open(self._feed)
            wire.send_all([*request.piece(kept), *((request.END_OF_INPUT,) if ended else ())])
        outcome = Outcome(job, limits, self._info)
        while True:
            header, body = await wire.receive()
            if header["type"] == "done":
                break
            if outputs is not None and header["type"] in KINDS:
                await outputs.take(header, body)
                continue
            for event in outcome.feed(header, body):
                if job.stream:
                    yield event
        result = outcome.result()
        yield result if outputs is None else outputs.added(result)

    async def _bring(self, job: Job, language: Language, limits: Limits, workspace: Workspace) -> None:
        """Send the job, with all that it finds in its workspace."""
        asked = request.Asked(job, language, workspace)
        self._wire.send_all(request.build(job, language, limits, self._cpu_cores, self._tmp, asked))
        await inputs.send(self._wire, asked.contents())
        self._wire.send_all(request.stdin(job))

    async def _feed(self, data: bytes, end: bool) -> None:
        for frame in (*request.piece(data), *((request.END_OF_INPUT,) if end else ())):
            await self._wire.send(frame)

    async def lost(self) -> str:
        """Wait until the agent hangs up; returns why."""
        return await self._wire.wait_closed()
