"""Whose pods are whose: each daemon has a Lease of Kubernetes, which owns its pods, and shows by renewing it that it lives.

When a Lease is gone, Kubernetes removes what it owned. A daemon that stops removes its own; that of a daemon that was killed
is removed by any other, as soon as it has not seen it renewed for a while. Nobody's clock is compared with another's: it counts
what this daemon saw, and while it could see.
"""

import asyncio
import math
from datetime import UTC, datetime

import structlog

from .cluster import LEASES, Cluster, ClusterError, Object
from .manifest import Owner
from .settings import PodSettings
from .watching import Watching

COMPONENT = "daemon"
CONFLICT, NOT_FOUND = 409, 404
RENEWALS = 3
"""How often a Lease is renewed in the time after which its daemon counts as dead."""

log = structlog.get_logger("runnerd.pods")


class Ownership:
    """This daemon's Lease, and what it saw of the others'."""

    def __init__(self, cluster: Cluster, settings: PodSettings, name: str) -> None:
        self.owner = Owner(name, "")
        """Who new pods belong to."""
        self._cluster = cluster
        self._settings = settings
        self._lease: Object = {}
        self._sights = Sights(settings.dead_after_s)
        self.watching = Watching(cluster, LEASES, labels(settings), self._seen)
        self.watching.relisted = self._sights.begin_anew

    async def claim(self) -> None:
        """Make this daemon's Lease. Raises ClusterError."""
        self._lease = await self._cluster.create(LEASES, lease(self.owner.name, self._settings, _now()))
        self.owner = Owner(self.owner.name, self._lease["metadata"]["uid"])

    async def renew(self) -> None:
        """Renew the Lease for ever, and remove those of the dead."""
        while True:
            await asyncio.sleep(self._settings.dead_after_s / RENEWALS)  # the rhythm that the others count by
            try:
                await self._renew()
                await self._bury()
            except ClusterError as error:
                log.warning("the daemon's Lease is not renewed", lease=self.owner.name, reason=str(error))

    async def release(self) -> None:
        """Remove the Lease, and with it all that it owns. Raises ClusterError."""
        await self._cluster.delete(LEASES, self.owner.name, propagationPolicy="Background")

    async def _renew(self) -> None:
        self._lease["spec"]["renewTime"] = _now()
        try:
            self._lease = await self._cluster.replace(LEASES, self._lease)
        except ClusterError as error:
            if error.code == CONFLICT:
                self._lease = await self._cluster.get(LEASES, self.owner.name)
            elif error.code == NOT_FOUND:
                log.warning("the daemon's Lease was removed, and its pods with it", lease=self.owner.name)
                await self.claim()
            else:
                raise

    async def _bury(self) -> None:
        if self.watching.problem:
            self._sights.begin_anew()
            return
        for name in self._sights.dead(_clock()):
            found = self.watching.objects.get(name)
            if found is None or name == self.owner.name:
                continue
            meta = found["metadata"]
            log.warning("another daemon is dead, removing its pods", lease=name)
            try:
                same = {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}
                await self._cluster.delete(LEASES, name, propagationPolicy="Background", preconditions=same)
            except ClusterError as error:
                if error.code != CONFLICT:  # it lives
                    raise

    def _seen(self, item: Object, gone: bool) -> None:
        meta = item["metadata"]
        self._sights.see(meta["name"], "" if gone else meta["resourceVersion"], _clock())


class Sights:
    """When each Lease was last seen to change. Plain code."""

    def __init__(self, dead_after_s: float) -> None:
        self._dead_after_s = dead_after_s
        self._versions: dict[str, str] = {}
        self._at: dict[str, float] = {}

    def see(self, name: str, version: str, now: float) -> None:
        """A Lease is there in some version, or is gone, which is no version."""
        if not version:
            self._versions.pop(name, None)
            self._at.pop(name, None)
        elif self._versions.get(name) != version or name not in self._at:
            self._versions[name] = version
            self._at[name] = now

    def begin_anew(self) -> None:
        """We could not see for a while: nobody is dead until we have looked on for long enough again."""
        self._at = dict.fromkeys(self._at, math.inf)

    def dead(self, now: float) -> list[str]:
        """Who was not seen to change for too long. Whoever was only remembered is looked at from now on."""
        self._at = {name: now if at == math.inf else at for name, at in self._at.items()}
        return [name for name, at in self._at.items() if now - at >= self._dead_after_s]


def lease(name: str, settings: PodSettings, now: str) -> Object:
    """A daemon's Lease."""
    return {
        "apiVersion": LEASES.group,
        "kind": "Lease",
        "metadata": {
            "name": name,
            "labels": {
                "app.kubernetes.io/name": "runnerd",
                "app.kubernetes.io/component": COMPONENT,
                "app.kubernetes.io/instance": settings.instance,
                "app.kubernetes.io/managed-by": "runnerd",
            },
        },
        "spec": {
            "holderIdentity": name,
            "leaseDurationSeconds": math.ceil(settings.dead_after_s),
            "acquireTime": now,
            "renewTime": now,
        },
    }


def labels(settings: PodSettings) -> str:
    """What the Leases of all daemons that belong together have in common."""
    return f"app.kubernetes.io/managed-by=runnerd,app.kubernetes.io/component={COMPONENT},app.kubernetes.io/instance={settings.instance}"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _clock() -> float:
    return asyncio.get_running_loop().time()
