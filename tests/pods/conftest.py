"""Fixtures of tests that need a cluster."""

from collections.abc import AsyncIterator, Iterator

import pytest

import cluster_fixture
from runnerd.executors.pods.cluster import Cluster


@pytest.fixture(scope="session")
def config() -> Iterator[str]:
    """The kubeconfig of a cluster."""
    with cluster_fixture.kubeconfig() as file:
        yield file


@pytest.fixture
async def cluster(config: str) -> AsyncIterator[Cluster]:
    """A namespace of the test's own."""
    async with cluster_fixture.namespace(config) as opened:
        yield opened
        await cluster_fixture.no_pods(opened)
