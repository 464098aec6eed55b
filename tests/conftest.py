"""Fixtures that more than one file uses: executors on this machine, at each level."""

import importlib.metadata
import os
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest

from hosting import hosted
from rabbitmq_fixture import Broker, broker
from runnerd import Blobs, KeyValues, Language
from runnerd.executors.here import open_here
from runnerd.executors.local import GVISOR, LEVELS, LocalExecutor, LocalSettings, open_local
from stores import store

CELLS = 8
LOCAL = LocalSettings(user=61_000 + os.getpid() % 4000, uid_base=100_000 * (10 + os.getpid() % 1000))
"""With user ids of this run alone: processes are counted by them, by the kernel and by tests."""
ExecutorAt = Callable[[str], Awaitable[LocalExecutor]]


def bundled_languages() -> dict[str, Language]:
    """All languages of installed plugins, by code."""
    found = {}
    for entry in importlib.metadata.entry_points(group="runnerd"):
        if ".languages." in entry.value:
            found.update({language.code: language for language in entry.load().register_languages()})
    return found


@pytest.fixture(scope="session")
def languages() -> dict[str, Language]:
    """All languages of installed plugins, by code."""
    return bundled_languages()


@pytest.fixture
def py(languages: dict[str, Language]) -> Language:
    """Python."""
    return languages["py"]


@pytest.fixture
async def kv() -> AsyncIterator[KeyValues]:
    """A key-value store in memory."""
    async with store("memory").open_kv() as kv:
        yield kv


@pytest.fixture
async def blobs() -> AsyncIterator[Blobs]:
    """A store of blobs in memory."""
    async with store("memory").open_blobs() as blobs:
        yield blobs


@asynccontextmanager
async def in_pods() -> AsyncGenerator[Any]:
    """An executor in a cluster."""
    import cluster_fixture  # noqa: PLC0415 - its client library is an extra, and slow to import

    with cluster_fixture.kubeconfig() as config:
        async with cluster_fixture.executor(config) as opened:
            yield opened


@pytest.fixture(scope="session")
async def executor_at(languages: dict[str, Language]) -> AsyncIterator[ExecutorAt]:
    """Gives an executor at exactly the level asked for, one per level and run of the suite; skips where this machine can't."""
    opened: dict[str, LocalExecutor] = {}
    async with AsyncExitStack() as stack:

        async def at(level: str) -> LocalExecutor:
            if level == "pod" and level not in opened:
                opened[level] = await stack.enter_async_context(hosted(in_pods()))
            if level == "strong" and os.geteuid() != 0:
                pytest.skip("level strong needs root")
            if level == GVISOR and (os.geteuid() != 0 or (not shutil.which("runsc") and "CI" not in os.environ)):
                pytest.skip("level gvisor needs root, and runsc")
            if level not in opened:
                context = open_here(msgspec.structs.replace(LOCAL, level=level), CELLS, languages.values())
                opened[level] = await stack.enter_async_context(hosted(context))
            executor = opened[level]
            assert executor.level == level, executor.reasons
            return executor

        yield at


@pytest.fixture(params=LEVELS)
async def at_level(request: pytest.FixtureRequest, executor_at: ExecutorAt) -> LocalExecutor:
    """An executor at each level in turn."""
    return await executor_at(request.param)


@pytest.fixture(scope="session")
async def executor(languages: dict[str, Language]) -> AsyncGenerator[LocalExecutor]:
    """An executor at the strongest level of this machine."""
    async with hosted(open_local(LOCAL, CELLS, languages.values())) as opened:
        yield opened


@pytest.fixture(scope="session")
async def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Broker]:
    """One node for the run of the suite; each test has a virtual host of its own in it."""
    async with broker(tmp_path_factory.mktemp("rabbitmq") / "node") as node:
        yield node
