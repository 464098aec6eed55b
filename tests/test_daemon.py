"""The daemon as a whole, with an executor in memory: what it takes, what it refuses, how it ends."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fake_executor import FakeExecutor, a_language, wait_until
from runnerd import ConfigError, Delivery, Event, Ingress, IngressError, Install, Interrupted, Job, Result, Services, placing
from runnerd.config import Settings, load_config
from runnerd.daemon import Daemon, effective_languages, open_daemon
from runnerd.plugins import Plugins, find_plugins
from runnerd.toolchains import Toolchains

happened: list[str] = []


class Spy(Ingress, tag="spy", frozen=True, kw_only=True):
    """Notes when it is opened and closed."""

    name: str = "spy"
    fails: bool = False

    @asynccontextmanager
    async def open(self, services: Services) -> AsyncIterator[str]:
        if self.fails:
            raise IngressError("spy: no")
        happened.append("ingress opened")
        yield "spy://here"
        happened.append(f"ingress closed, draining {services.draining()}")


@pytest.fixture
def plugins() -> Plugins:
    """The bundled stores, a spy in place of ingresses, and two languages: one that is always here, one whose tool is not."""
    happened.clear()
    bundled = find_plugins()
    missing = a_language("zig", version=("zig", "version"), install=Install(debian=("zig",)))
    here = a_language("py", aliases=("python",), run=("sh", "{file}"), version=("sh", "-c", "echo 1.0"), warm=1)
    return msgspec.structs.replace(
        bundled, languages={"py": here, "zig": missing}, aliases={"python": "py"}, ingress={**bundled.ingress, "spy": Spy}
    )


class Executor(FakeExecutor):
    level = "strong"


Open = Callable[..., AbstractAsyncContextManager[Daemon]]


@pytest.fixture
def settings(plugins: Plugins, tmp_path: Path) -> Callable[..., Settings]:
    def made(*flags: str) -> Settings:
        base = (
            "store.kv.kind=memory",
            "store.blob.kind=memory",
            "ingress.nats.enabled=no",
            "ingress.http.enabled=no",
            f"state_dir={tmp_path}/s",
        )
        return load_config(plugins, flags=(*base, *flags), environ={}, directory=tmp_path).settings

    return made


@pytest.fixture
def executor() -> FakeExecutor:
    return Executor()


@pytest.fixture
def open_(plugins: Plugins, settings: Callable[..., Settings], executor: FakeExecutor, tmp_path: Path) -> Open:
    @asynccontextmanager
    async def open_executor(*_: Any) -> AsyncIterator[FakeExecutor]:
        happened.append("executor opened")
        yield executor
        happened.append("executor closed")

    def opened(*flags: str) -> AbstractAsyncContextManager[Daemon]:
        toolchains = Toolchains(path=f"{tmp_path}/bin:/bin:/usr/bin", roots=("/usr", "/bin", str(tmp_path)))
        return open_daemon(settings(*flags), plugins, open_executor=open_executor, toolchains=toolchains)

    return opened


async def result_of(daemon: Daemon, job: Job | Delivery) -> Result:
    events: list[Event] = [event async for event in daemon.submit(job)]
    assert isinstance(events[-1], Result)
    return events[-1]


async def test_a_delivery_becomes_a_result(open_: Open) -> None:
    async with open_() as daemon:
        result = await result_of(daemon, Delivery(body=b'{"code": "hi", "id": "a"}', tenant="acme", lang="py"))
        assert (result.status, result.stdout, result.id, result.tenant, result.lang) == ("ok", "hi\n", "a", "acme", "py")
        assert await daemon.status("acme", "a") == result
        assert await daemon.cancel("acme", "a") == result
        again = await result_of(daemon, Job(id="a", tenant="acme", lang="python", code="hi"))
        assert again == result


async def test_streams_where_it_was_asked_to(open_: Open) -> None:
    async with open_() as daemon:
        events = [event async for event in daemon.submit(Delivery(body=b'{"code": "stream 3"}', lang="py", stream=True))]
        assert [type(event).__name__ for event in events] == ["Started", "Output", "Output", "Output", "Result"]
        events = [event async for event in daemon.submit(Delivery(body=b'{"code": "stream 3"}', lang="py"))]
        assert [type(event).__name__ for event in events] == ["Result"]


async def test_what_is_no_job_is_rejected(open_: Open, executor: FakeExecutor) -> None:
    async with open_() as daemon:
        result = await result_of(daemon, Delivery(body=b"nonsense", job_id="j", tenant="acme", lang="py"))
        assert (result.status, result.id, result.tenant) == ("rejected", "j", "acme")
        assert (
            await result_of(daemon, Job(lang="py", code="hi", limits=msgspec.convert({"wall_s": 1e6}, Job.__annotations__["limits"])))
        ).status == "rejected"
        assert not executor.ran


@pytest.mark.parametrize(
    ("level", "minimum", "runs"),
    [
        ("userns", "userns", True),
        ("landlock", "userns", False),
        ("process", "process", True),
        ("unheard-of", "landlock", False),
        ("pod", "strong", True),
        ("pod", "pod", True),
        ("pod+kata", "pod", True),
        ("pod", "pod+gvisor", False),
        ("pod+gvisor", "pod+gvisor", True),
        ("strong", "pod", False),
    ],
)
async def test_weaker_isolation_than_demanded_is_refused(open_: Open, executor: FakeExecutor, level: str, minimum: str, runs: bool) -> None:
    executor.level = level
    async with open_(f"isolation.minimum={minimum}") as daemon:
        result = await result_of(daemon, Job(lang="py", code="hi"))
        assert result.status == ("ok" if runs else "rejected")
        assert bool(executor.ran) is runs
        assert bool(daemon.health()["refuses"]) is not runs
        if not runs:
            assert f"level {level!r}, and jobs need {minimum!r}" in result.reason
            assert "RUNNERD_ISOLATION_MINIMUM" in result.reason


async def test_a_missing_tool_chain_is_named_and_found_once_it_is_there(
    open_: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runnerd.availability._AGAIN_S", -1.0)
    async with open_("languages.zig.warm=2") as daemon:
        result = await result_of(daemon, Job(lang="zig", code="hi"))
        assert result.status == "rejected"
        assert "zig: not found in" in result.reason
        assert "install it with `apt-get install --yes --no-install-recommends zig`" in result.reason
        assert daemon.health()["pools"]["zig"]["target"] == 0

        program = tmp_path / "bin" / "zig"
        program.parent.mkdir()
        program.write_text("#!/bin/sh\necho 0.13.0\n")
        program.chmod(0o755)
        assert (await result_of(daemon, Job(lang="zig", code="hi"))).status == "ok"
        assert daemon.health()["languages"]["zig"]["version"] == "0.13.0"
        assert daemon.health()["pools"]["zig"]["target"] == 2


async def test_stops_in_order_after_finishing_what_is_in_hand(open_: Open, executor: FakeExecutor) -> None:
    async with open_("ingress.spy.name=x") as daemon:
        assert daemon.addresses == {"spy": "spy://here"}
        async with asyncio.TaskGroup() as tasks:
            job = tasks.create_task(result_of(daemon, Job(lang="py", code="wait")))
            await wait_until(lambda: len(executor.ran) == 1, "the job runs")
            stopping = tasks.create_task(daemon.drain())
            await wait_until(daemon.draining, "draining")
            with pytest.raises(Interrupted):
                await result_of(daemon, Job(lang="py", code="hi"))
            executor.go.set()
            await stopping
        assert job.result().status == "ok"
    assert happened == ["executor opened", "ingress opened", "ingress closed, draining True", "executor closed"]
    assert executor.alive == 0


async def test_gives_back_at_once(open_: Open, executor: FakeExecutor) -> None:
    async with open_() as daemon, asyncio.TaskGroup() as tasks:
        job = tasks.create_task(_error_of(daemon))
        await wait_until(lambda: len(executor.ran) == 1, "the job runs")
        await daemon.give_back()
        assert isinstance(await job, Interrupted)
    assert executor.alive == 0


async def _error_of(daemon: Daemon) -> Exception | None:
    try:
        await result_of(daemon, Job(lang="py", code="wait"))
    except Interrupted as error:
        return error
    return None


async def test_an_ingress_that_does_not_open_stops_the_daemon_and_leaves_nothing(open_: Open, executor: FakeExecutor) -> None:
    with pytest.raises(IngressError, match="spy: no"):
        async with open_("ingress.spy.fails=true"):
            pass
    assert happened == ["executor opened"]
    assert executor.alive == 0


async def test_a_state_directory_that_can_not_be_made(plugins: Plugins, settings: Callable[..., Settings], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="set RUNNERD_STATE_DIR to another place"):
        async with open_daemon(settings(f"state_dir={tmp_path}/file/x"), plugins):
            pass


def test_settings_change_languages(plugins: Plugins, settings: Callable[..., Settings]) -> None:
    changed = settings("languages.py.warm=7", "languages.py.image=mine", "scheduler.slots=3")
    languages = effective_languages(changed, plugins)
    assert (languages["py"].warm, languages["py"].image, languages["zig"]) == (7, "mine", plugins.languages["zig"])
    assert placing.sandboxes(changed, languages.values()) == 3 * 2 + 7


async def test_a_result_counts_also_where_nobody_asks_for_what_comes_after_it(open_: Open) -> None:
    async with open_() as daemon:
        async with aclosing(daemon.submit(Job(id="j", lang="py", code="1", tenant="t"))) as events:
            async for event in events:
                if isinstance(event, Result):
                    break
        counted = [line for line in daemon.metrics().splitlines() if line.startswith(b"runnerd_jobs_total{")]
        assert [line.rpartition(b" ")[2] for line in counted] == [b"1.0"], counted
