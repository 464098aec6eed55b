"""A sandbox behind a wire: the same for every executor, since the same agent is at the other end."""

from collections.abc import AsyncIterator

from ..agent.frames import Header
from ..job import Event, Job, Limits, SandboxInfo
from ..spec import Language, Workspace
from . import request
from .outcome import Outcome
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

    async def run(self, job: Job, language: Language, limits: Limits, workspace: Workspace | None = None) -> AsyncIterator[Event]:
        """Run the job; ends with its Result. Raises SandboxLost."""
        wire = self._wire
        wire.send_all(request.build(job, language, limits, self._cpu_cores, self._tmp))
        outcome = Outcome(job, limits, self._info)
        while True:
            header, body = await wire.receive()
            if header["type"] == "done":
                break
            for event in outcome.feed(header, body):
                if job.stream:
                    yield event
        yield outcome.result()

    async def lost(self) -> str:
        """Wait until the agent hangs up; returns why."""
        return await self._wire.wait_closed()
