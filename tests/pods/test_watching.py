"""List, watch, and what becomes of it when the API is away, against an API in memory."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from runnerd.executors.pods import watching
from runnerd.executors.pods.cluster import PODS, ClusterError, Object
from runnerd.executors.pods.watching import Watching


def pod(name: str, version: int) -> Object:
    return {"metadata": {"name": name, "resourceVersion": str(version)}}


def event(kind: str, name: str, version: int) -> Object:
    return {"type": kind, "object": pod(name, version)}


class Api:
    """Answers what it was told to, in order, and remembers from where it was asked to go on."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        self.done = asyncio.Event()

    async def list(self, *_: Any, **__: Any) -> tuple[list[Object], str]:
        self.asked.append("list")
        found = await self._next()
        return found, "10"

    async def watch(self, _: Any, __: str, version: str) -> AsyncGenerator[Object, None]:
        self.asked.append(version)
        for one in await self._next():
            if isinstance(one, Exception):
                raise one
            yield one

    async def _next(self) -> Any:
        if not self.answers:
            self.done.set()
            await asyncio.Event().wait()
        found = self.answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found


async def watched(api: Api) -> tuple[Watching, list[tuple[str, bool]]]:
    seen: list[tuple[str, bool]] = []
    found = Watching(api, PODS, "", lambda item, gone: seen.append((item["metadata"]["name"], gone)))  # type: ignore[arg-type]
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(found.run())
        async with asyncio.timeout(20):
            await api.done.wait()
        task.cancel()
    return found, seen


async def test_a_list_and_what_changes_after_it() -> None:
    api = Api([pod("a", 1), pod("b", 2)], [event("MODIFIED", "a", 11), event("DELETED", "b", 12), event("ADDED", "c", 13)])
    found, seen = await watched(api)
    assert seen == [("a", False), ("b", False), ("a", False), ("b", True), ("c", False)]
    assert set(found.objects) == {"a", "c"}


async def test_a_watch_that_ends_goes_on_where_it_was_by_bookmarks_too() -> None:
    api = Api([], [event("ADDED", "a", 11), {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "50"}}}], [])
    _, seen = await watched(api)
    assert api.asked == ["list", "10", "50", "50"]
    assert seen == [("a", False)]


async def test_a_version_that_is_too_old_means_a_new_list_at_once() -> None:
    api = Api([pod("a", 1), pod("b", 1)], [ClusterError("too old", 410)], [pod("b", 1)])
    found, seen = await watched(api)
    assert api.asked == ["list", "10", "list", "10"]
    assert seen[-2:] == [("a", True), ("b", False)]
    assert found.problem == ""


async def test_an_api_that_is_away_is_asked_again_after_waits_that_grow(monkeypatch: Any) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(watching.asyncio, "sleep", sleep)
    away = ClusterError("away")
    api = Api(away, away, away, away, [pod("a", 1)], [event("MODIFIED", "a", 12), away])
    found, seen = await watched(api)
    assert len(waits) == 5
    assert waits[3] > waits[0]
    assert waits[4] < watching.FIRST_WAIT_S  # it had answered in between
    assert seen == [("a", False)] * 2
    assert found.problem == "away"
