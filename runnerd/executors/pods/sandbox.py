"""A pod as a sandbox: the agent behind its wire, and what the cluster says about the end of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import nullcontext

from ...agent.frames import Header
from ...errors import NotBegun, SandboxLost
from ...job import Event, Job, Limits, Result
from ...spec import Language, Workspace
from ...stdin import Stdin
from ...tools import Tools
from ..sandbox import AgentSandbox
from ..wire import Wire
from .condition import End
from .marking import Marking
from .sighting import Sighting

EXPLAIN_S = 5.0
"""How long we wait for the cluster to say why an agent has hung up, before we say only that it has."""


class PodSandbox(AgentSandbox):
    """A lease on a pod."""

    def __init__(
        self, wire: Wire, ready: Header, cpu_cores: float, overtime_s: float, sighting: Sighting, marking: Marking | None = None
    ) -> None:
        super().__init__("pods", wire, ready, cpu_cores, overtime_s)
        self._sighting = sighting
        self._marking = marking

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
            with self._marking.lease(job, self._sighting) if self._marking is not None else nullcontext():
                async for event in super().run(job, language, limits, workspace, stdin, tools):
                    yield event
        except SandboxLost as error:
            end = await self._end()
            if end is None:
                raise
            of_another = self._served > 1 and isinstance(error, NotBegun)  # the job before it did that, and this one can run elsewhere
            if not end.limit or of_another:
                raise type(error)(f"{end.reason} ({error})") from error
            yield self._over_a_limit(job, limits, end)

    async def lost(self) -> str:
        """Wait until the agent hangs up, or the pod is gone; returns why."""
        reason = await super().lost()
        end = await self._end()
        return end.reason if end is not None else reason

    async def _end(self) -> End | None:
        """What the cluster says, if it says it soon."""
        try:
            async with asyncio.timeout(EXPLAIN_S):
                return await self._sighting.end()
        except TimeoutError:
            return None

    def _over_a_limit(self, job: Job, limits: Limits, end: End) -> Result:
        """Kubelets end the whole pod, the agent among it, when a job wrote too much, and newer ones when it took too much memory."""
        if end.oom:
            reason = f"used more than {limits.memory_bytes} bytes of memory: {end.reason}"
            return Result(id=job.id, status="oom", limit=end.limit, reason=reason, stage="run", sandbox=self._info)
        return Result(id=job.id, status="limit", limit=end.limit, reason=end.reason, stage="run", sandbox=self._info)
