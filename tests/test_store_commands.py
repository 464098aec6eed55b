"""`runnerd sessions` and `runnerd store`, on stores on disk."""

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path

from msgspec import structs

from fake_executor import FakeExecutor
from runnerd import Result
from scheduling import job, result
from stores import store
from test_commands import runnerd  # noqa: F401 - a fixture
from test_sessions import sessions

Runnerd = Callable[..., tuple[int, str, str]]


def filled(directory: Path, *tenants: str) -> list[Result]:
    """A store on disk with a session of each tenant."""

    async def fill() -> list[Result]:
        disk = store("disk", path=str(directory))
        async with disk.open_kv() as kv, disk.open_blobs() as blobs, sessions(kv, blobs, FakeExecutor()) as scheduler:
            it = job("add 1; write dir/a.txt hello", session="", entity="bot 7", user="ann")
            return [await result(scheduler, structs.replace(it, id=tenant, tenant=tenant)) for tenant in tenants]

    return asyncio.run(fill())


def test_sessions_are_listed_shown_and_removed(runnerd: Runnerd, tmp_path: Path) -> None:  # noqa: F811 - the fixture
    ours, theirs = filled(tmp_path / "state" / "store", "default", "acme")
    code, out, _ = runnerd("sessions", "ls")
    assert code == 0
    assert f"default/{ours.session}" in out
    assert f"acme/{theirs.session}" in out
    assert [one["id"] for one in json.loads(runnerd("sessions", "ls", "--tenant", "acme", "--json")[1])] == [theirs.session]
    assert json.loads(runnerd("sessions", "ls", "--entity", "else", "--json")[1]) == []
    code, out, _ = runnerd("sessions", "show", ours.session)
    assert code == 0
    assert ours.stored[0].id in out
    assert "dir/a.txt" in out
    code, out, _ = runnerd("sessions", "rm", ours.session, f"acme/{theirs.session}")
    assert (code, out) == (0, f"removed default/{ours.session}\nremoved acme/{theirs.session}\n")
    assert json.loads(runnerd("sessions", "ls", "--json")[1]) == []
    assert not list(tmp_path.rglob("*.blob"))
    code, _, err = runnerd("sessions", "show", ours.session)
    assert (code, err[:32]) == (1, "runnerd: there is no session '" + ours.session[:2])


def test_a_store_check_tells_each_step(runnerd: Runnerd, tmp_path: Path) -> None:  # noqa: F811 - the fixture
    code, out, _ = runnerd("store", "check")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["store.kv"] * 6 + ["store.blob"] * 6
    assert out.count(" ms") == 12
    found = json.loads(runnerd("store", "check", "--json")[1])
    assert {step["problem"] for step in found} == {""}
    assert not list(tmp_path.rglob("*.blob"))


def test_a_store_that_can_not_be_opened_is_told(runnerd: Runnerd, tmp_path: Path) -> None:  # noqa: F811 - the fixture
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "store").write_text("in the way")
    code, out, _ = runnerd("store", "check")
    assert code == 1
    assert out.count("problem: ") == 2
    assert os.fspath(tmp_path / "state" / "store") in out
