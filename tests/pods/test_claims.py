"""Leases on a hundred pods, claimed by two daemons at once: each pod is given once, and none is lost."""

import asyncio
import random
from collections import Counter

import pytest

import cluster_fixture
from cluster_fixture import LIMITS, until
from conftest import bundled_languages
from runnerd import Job, Result, SandboxError
from runnerd.executors.pods import condition, manifest
from runnerd.executors.pods.cluster import LEASES, PODS, Cluster
from runnerd.executors.pods.knock import Secret, knock, new_secret
from runnerd.executors.pods.manifest import Owner, Wanted
from runnerd.executors.pods.ownership import lease
from runnerd.executors.pods.sandbox import PodSandbox
from runnerd.executors.pods.settings import PodSettings
from runnerd.executors.pods.sighting import Sighting
from runnerd.executors.wire import Wire
from runnerd.limits import allowed

pytestmark = [pytest.mark.pods, pytest.mark.slow, pytest.mark.timeout(900)]
PODS_AT_ONCE = 100
CLAIMS = 500
REFUSED = "the agent gave no lease: leased"
STARTING = 12
"""Pods that start at once: more would only wait for each other."""
BASH = bundled_languages()["bash"]


async def make(cluster: Cluster, settings: PodSettings, owner: Owner) -> tuple[dict[str, Secret], dict[str, str]]:
    """Pods that wait for their lease: their secrets and their addresses, by name."""
    secrets = {f"claimed-{number}": new_secret() for number in range(PODS_AT_ONCE)}
    addresses: dict[str, str] = {}
    at_once = asyncio.Semaphore(STARTING)

    async def one(name: str, secret: Secret) -> None:
        wanted = Wanted(name, BASH, 64 << 20, 1.0, secret.proof.hex())
        async with at_once:
            await cluster.create(PODS, manifest.pod(wanted, settings, owner))
            (pod,) = await until(
                cluster, PODS, f"{manifest.SANDBOX}={name}", lambda pods: any(map(condition.address, pods)), patience_s=300
            )
            addresses[name] = condition.address(pod)

    await asyncio.gather(*(one(name, secret) for name, secret in secrets.items()))
    return secrets, addresses


async def test_five_hundred_claims_on_a_hundred_pods(config: str, cluster: Cluster) -> None:
    settings = cluster_fixture.settings(config, cluster.namespace, unclaimed_s=900)
    made = await cluster.create(LEASES, lease("both", settings, "2026-01-01T00:00:00.000000Z"))
    owner = Owner("both", made["metadata"]["uid"])
    secrets, addresses = await make(cluster, settings, owner)

    claims = [name for name in secrets for _ in range(CLAIMS // PODS_AT_ONCE)]
    random.shuffle(claims)
    won: dict[str, PodSandbox] = {}
    wires: list[Wire] = []
    lost: Counter[str] = Counter()

    async def daemon(mine: list[str]) -> None:
        """One of two that claim side by side, without a word between them."""
        await asyncio.gather(*(claim(name) for name in mine))

    async def claim(name: str) -> None:
        try:
            wire, ready = await knock(addresses[name], settings.port, secrets[name])
        except SandboxError as error:
            lost[str(error)] += 1
            return
        assert name not in won, "given twice"
        wires.append(wire)
        won[name] = PodSandbox(wire, ready, 1.0, 60.0, Sighting())

    try:
        await asyncio.gather(daemon(claims[::2]), daemon(claims[1::2]))
        assert (len(won), dict(lost)) == (PODS_AT_ONCE, {REFUSED: CLAIMS - PODS_AT_ONCE})
        outputs = await asyncio.gather(*(hello(name, sandbox) for name, sandbox in won.items()))
        assert sorted(outputs) == sorted(f"{name}\n" for name in secrets)
    finally:
        for wire in wires:
            wire.close()
    await until(cluster, PODS, "", lambda pods: all(condition.ended(pod) for pod in pods))
    await cluster.delete(LEASES, "both", propagationPolicy="Background")


async def hello(name: str, sandbox: PodSandbox) -> str:
    """What a job says in a pod that was won."""
    job = Job(id=name, tenant="t", lang="bash", code=f"echo {name}")
    *_, last = [event async for event in sandbox.run(job, BASH, allowed(BASH, LIMITS))]
    assert isinstance(last, Result)
    assert last.status == "ok", last
    return last.stdout
