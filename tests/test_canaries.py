"""A probe is worth something only if it gets through where nothing holds it: all of them do at level `process`."""

import pytest

from conftest import ExecutorAt
from runnerd.executors import canaries
from runnerd.executors.local import LEVELS, LocalExecutor, LocalSettings, open_local


async def breaches(executor: LocalExecutor) -> list[str]:
    return await canaries.breaches(executor.probe, executor.credentials(executor.level))


async def test_every_probe_succeeds_without_isolation(executor_at: ExecutorAt) -> None:
    assert await breaches(await executor_at("process")) == list(canaries.PROBES)
    assert len(canaries.PROBES) >= 6


@pytest.mark.parametrize("level", LEVELS[:3])
async def test_every_other_level_withstands_all(executor_at: ExecutorAt, level: str) -> None:
    assert await breaches(await executor_at(level)) == []


async def test_a_level_that_is_breached_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(canaries.PROBES, "open door", 'print(open("/etc/passwd").read() and {secret!r})')
    monkeypatch.setattr(
        canaries.Bait,
        "program",
        lambda bait, probe: canaries.PROBES[probe].format(secret=bait.secret, pid=0, port=1, directory="/", name="x"),
    )
    async with open_local(LocalSettings(level="userns"), 2, []) as executor:
        assert executor.level == "process"
        assert executor.breaches["userns"] == ["open door"]
        assert "open door" in executor.reasons["landlock"]
