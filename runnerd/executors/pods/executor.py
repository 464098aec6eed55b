"""The pod executor: each sandbox is a pod of its own, made ahead of its job, watched, and removed after it."""

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import structlog

from ...agent.frames import Header
from ...agent.options import POD
from ...errors import SandboxError
from ...limits import LimitSettings, allowed
from ...nursery import open_nursery
from ...spec import Language
from ..wire import Wire
from . import access, condition, manifest
from .cluster import EVENTS, JOBS, PODS, Cluster, ClusterError, Object, Resource, open_cluster
from .creation import Creation
from .knock import Secret, knock, new_secret
from .manifest import Wanted
from .marking import Marking
from .ownership import Ownership
from .removal import Removal
from .sandbox import PodSandbox
from .settings import PodSettings
from .sighting import Sighting
from .watching import Watching

CLOSE_S = 20.0
"""How long removing what is left may take when the daemon stops."""
FIRST_MOMENTS_S = 0.01
"""A pod takes another's place when the job that it stands in for has had so long: it is asked for by the same process."""
CAN_NOT_NEST = (
    "languages.{code}.reuse = tenant: a pod can't serve a tenant's jobs one after the other here: its node's kernel has no Landlock of "
    "ABI 6 (Linux 6.12), or its runtime or the agent in its image is older. Use reuse = session or job, or nodes that have it"
)
GVISOR, KATA = "pod+gvisor", "pod+kata"

log = structlog.get_logger("runnerd.pods")


@asynccontextmanager
async def open_pods(settings: PodSettings, limits: LimitSettings, start_s: float, *, closed: bool = False) -> AsyncGenerator["PodExecutor"]:
    """Make sandboxes in a cluster while the block is open; none is left after it. Raises SandboxError.

    `start_s` is how long a sandbox may take to start, in seconds; `closed` refuses a cluster without a NetworkPolicy for them.
    """
    async with open_cluster(settings) as cluster:
        warnings = await access.check(cluster, settings, closed=closed)
        for warning in warnings:
            log.warning(warning)
        async with open_nursery() as tasks:
            removal, marking = Removal(cluster, settings.requests, tasks), Marking(cluster, settings.label_after_s, tasks)
            executor = PodExecutor(cluster, settings, limits, start_s, removal, marking)
            executor.warnings = warnings
            executor.level = await _level(cluster, settings)
            await executor.ownership.claim()
            running = [
                tasks.create_task(work()) for work in (executor.watching.run, executor.ownership.watching.run, executor.ownership.renew)
            ]
            try:
                await executor.watching.listed()
                yield executor
            finally:
                await executor.close()
                for task in running:
                    task.cancel()


async def _level(cluster: Cluster, settings: PodSettings) -> str:
    """What the runtime class, if any, adds to a pod's isolation: as its handler says."""
    handler = await access.handler(cluster, settings.runtime_class) if settings.runtime_class else ""
    if handler.startswith("runsc"):
        return GVISOR
    return KATA if handler.startswith("kata") else POD


def _check(language: Language, ready: Header) -> None:
    """Refuse a pod that can't do what the language's reuse asks for. Raises SandboxError."""
    if language.reuse == "tenant" and not ready.get("nests", False):
        raise SandboxError(CAN_NOT_NEST.format(code=language.code))


class PodExecutor:
    """Makes sandboxes out of pods. Opened by `open_pods`."""

    name = "pods"

    def __init__(
        self, cluster: Cluster, settings: PodSettings, limits: LimitSettings, start_s: float, removal: Removal, marking: Marking
    ) -> None:
        self.level = POD
        self.cluster = cluster
        self.warnings: tuple[str, ...] = ()
        """What people should know about the cluster."""
        self.ownership = Ownership(cluster, settings, f"{settings.instance}-{secrets.token_hex(4)}")
        owner = self.ownership.owner.name
        self.watching = Watching(cluster, PODS, f"{manifest.DAEMON}={owner}", self._seen)
        self._settings = settings
        self._limits = limits
        self._start_s = start_s
        self._removal = removal
        self._marking = marking
        self._sightings: dict[str, Sighting] = {}
        self._creation = Creation(cluster, settings.requests)

    @property
    def description(self) -> dict[str, Any]:
        """Where the pods are, how many there are, and whether the API can be reached."""
        return {
            "namespace": self.cluster.namespace,
            "daemon": self.ownership.owner.name,
            "pods": len(self.watching.objects),
            "removing": self._removal.pending,
            "api_calls": self.cluster.calls,
            "problem": self.watching.problem,
            "warnings": self.warnings,
        }

    @asynccontextmanager
    async def sandbox(self, language: Language) -> AsyncGenerator[PodSandbox]:
        """A pod whose agent is ours and has its interpreter ready. Raises SandboxError, with the reason that Kubernetes gives."""
        secret = new_secret()
        wanted = Wanted(
            name=f"{self._settings.instance}-{language.code}-{secrets.token_hex(5)}",
            language=language,
            memory_bytes=allowed(language, self._limits).memory_bytes or 0,
            cpu_cores=self._limits.cpu_cores,
            proof=secret.proof.hex(),
        )
        resource = JOBS if language.warm == 0 and self._settings.cold == "job" else PODS
        sighting = self._sightings[wanted.name] = Sighting()
        try:
            wire, ready = await self._start(resource, wanted, sighting, secret)
            try:
                _check(language, ready)
                overtime_s = self._settings.overtime_s + 2 * self._settings.state_s
                ready["level"] = self.level
                yield PodSandbox(wire, ready, self._limits.cpu_cores, overtime_s, sighting, self._marking)
            finally:
                wire.close()
        except BaseException:
            self._removal.begin(resource, wanted.name)  # who waits for a sandbox need not wait for the end of one that did not start
            raise
        else:
            await self._removal.remove(resource, wanted.name)
        finally:
            del self._sightings[wanted.name]

    async def _start(self, resource: Resource, wanted: Wanted, sighting: Sighting, secret: Secret) -> tuple[Wire, Header]:
        """Make the pod and wait for its agent. Raises SandboxError."""
        make = manifest.job if resource is JOBS else manifest.pod
        try:
            async with asyncio.timeout(self._start_s):
                if resource is PODS:
                    await asyncio.sleep(FIRST_MOMENTS_S)
                await self._creation.create(resource, lambda: make(wanted, self._settings, self.ownership.owner))
                address = await sighting.address()
                wire, ready = await knock(address, self._settings.port, secret)
        except TimeoutError:
            reason = self._creation.problem or sighting.waits_for() or await self._events(wanted.name) or "nobody says why"
            raise SandboxError(f"its pod was not ready within {self._start_s:g} s: {reason}") from None
        sighting.on_end = wire.fail
        return wire, ready

    async def _events(self, name: str) -> str:
        """The last thing that the cluster complained of about a pod or a Job; empty where it did not, or does not tell."""
        try:
            found, _ = await self.cluster.list(EVENTS, fields=f"involvedObject.name={name},type=Warning")
        except ClusterError:
            return ""
        return condition.last_word(found)

    def _seen(self, pod: Object, gone: bool) -> None:
        sighting = self._sightings.get(pod["metadata"].get("labels", {}).get(manifest.SANDBOX, ""))
        if sighting is not None:
            sighting.see(pod, gone)

    async def close(self) -> None:
        """Remove all that is left, and the Lease that shows that this daemon lives."""
        try:
            await self._removal.stop(CLOSE_S)
            await self.ownership.release()
        except ClusterError as error:
            log.warning("pods may be left, until another daemon removes them", lease=self.ownership.owner.name, reason=str(error))
