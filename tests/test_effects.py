"""Each variable of the source system does what its name says: setting it changes what can be seen from outside."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import httpx
import pytest
import structlog

from fake_executor import FakeExecutor, wait_until
from pod_effects import ROWS as PODS
from runnerd import ConfigError, Job, Language, Result
from runnerd.config import Settings, load_config
from runnerd.config.seed import LATER
from runnerd.daemon import Daemon, open_daemon
from runnerd.executors.local import LocalExecutor, LocalSettings
from runnerd.job import File
from runnerd.log import open_log
from runnerd.plugins import find_plugins
from runnerd.policy import Policy
from runnerd.spec import Executor
from runnerd.toolchains import Toolchain, Toolchains
from seed_variables import NAMES
from session_effects import ROWS as SESSIONS
from store_effects import ROWS as STORES

BASE = ("store.kv.kind=memory", "store.blob.kind=memory", "ingress.nats.enabled=no")
KEY = "k" * 20
OTHER = "o" * 20


class AllThere(Toolchains):
    """A machine with every tool chain."""

    async def probe(self, languages: Iterable[Language]) -> dict[str, Toolchain]:
        return {language.code: Toolchain(language=language.code, version="1") for language in languages}


class Fake(FakeExecutor):
    level = "strong"


class World(NamedTuple):
    """One variable's value, and all that can be looked at under it."""

    environ: dict[str, str]
    directory: Path
    sandboxes: LocalExecutor

    def settings(self, *flags: str) -> Settings:
        base = (*BASE, f"state_dir={self.directory}/state", *flags)
        return load_config(find_plugins(), flags=base, environ=self.environ, directory=self.directory).settings

    @asynccontextmanager
    async def daemon(self, executor: Executor, *flags: str) -> AsyncIterator[Daemon]:
        @asynccontextmanager
        async def opened(local: LocalSettings, *_: Any) -> AsyncIterator[Executor]:
            self.environ["cpu_cores"] = str(local.cpu_cores)
            yield executor

        async with open_daemon(self.settings(*flags), find_plugins(), open_executor=opened, toolchains=AllThere()) as daemon:
            yield daemon

    @asynccontextmanager
    async def http(self, *flags: str) -> AsyncIterator[httpx.AsyncClient]:
        async with self.daemon(Fake(), "ingress.http.port=0", "pool.enabled=no", *flags) as daemon:
            address = daemon.addresses["http"].partition(" ")[0]
            async with httpx.AsyncClient(base_url=address, trust_env=False) as client:
                yield client

    async def run(self, code: str, **fields: Any) -> Result:
        """A Python job in a real sandbox."""
        async with self.daemon(self.sandboxes, "ingress.http.enabled=no", "pool.enabled=no", "isolation.minimum=process") as daemon:
            events = [event async for event in daemon.submit(Job(lang="py", code=code, **fields))]
        assert isinstance(events[-1], Result)
        return events[-1]

    def logged(self, write: Callable[[], None]) -> list[dict[str, Any]]:
        """What is in the log file after `write`."""
        file = self.directory / "log"
        self.environ.setdefault("LOG_FILE", str(file))
        with open_log(self.settings().log):
            write()
        return [json.loads(line) for line in file.read_text().splitlines()]


Look = Callable[[World], Awaitable[object]]


class Effect(NamedTuple):
    """What is set, what is looked at, and what is seen without and with it."""

    value: str
    look: Look
    without: object
    seen: object


# --- limits: looked at from inside a sandbox ----------------------------------------------------------------------


def printed(code: str) -> Look:
    async def look(world: World) -> object:
        result = await world.run(code)
        return result.stdout.strip() or (result.status, result.limit)

    return look


async def overslept(world: World) -> object:
    # without the variable the program ends by itself; with it, the deadline is long before that
    result = await world.run("import time; time.sleep(2)" if "MAX_EXECUTION_TIME" not in world.environ else "import time; time.sleep(60)")
    return result.status


async def overfull(world: World) -> object:
    return (await world.run("x = bytearray(150 << 20); x[::4096] = b'x' * len(x[::4096])")).status


async def big_file(world: World) -> object:
    result = await world.run("open('big', 'wb').write(b'x' * (3 << 20))")
    return result.status == "ok" and [file.name for file in result.files] == ["big"]


async def many_files(world: World) -> object:
    return len((await world.run("for i in range(20): open(str(i), 'w').close()")).files)


async def long_name(world: World) -> object:
    return (await world.run("", files=(File(name="x" * 30, text=""),))).status


FORKS = """
import os, time
n = 0
try:
    while n < 100:
        if os.fork() == 0: time.sleep(60)
        n += 1
except OSError: pass
print(n < 60)
"""


# --- pool and scheduler: an executor in memory counts --------------------------------------------------------------


def pool_of(code: str) -> Look:
    async def look(world: World) -> object:
        async with world.daemon(Fake(), "ingress.http.enabled=no") as daemon:
            return daemon.health()["pools"][code]["warm"]

    return look


def image_of(code: str) -> Look:
    async def look(world: World) -> object:
        async with world.daemon(Fake(), "ingress.http.enabled=no", "pool.enabled=no") as daemon:
            return daemon.languages[code].image

    return look


async def slots(world: World) -> object:
    async with world.daemon(Fake(), "ingress.http.enabled=no", "pool.enabled=no") as daemon:
        return daemon.free()


async def cores(world: World) -> object:
    async with world.daemon(Fake(), "ingress.http.enabled=no", "pool.enabled=no"):
        return float(world.environ["cpu_cores"])


async def found_warm(world: World) -> object:
    async with world.daemon(Fake(), "ingress.http.enabled=no") as daemon:
        events = [event async for event in daemon.submit(Job(lang="py", code="hi"))]
        assert isinstance(events[-1], Result)
        assert events[-1].sandbox is not None
        return events[-1].sandbox.warm


async def opens_before_it_is_warm(world: World) -> object:
    executor = Fake()
    executor.may_start.clear()
    opened = asyncio.Event()

    async def daemon() -> None:
        async with world.daemon(executor, "ingress.http.enabled=no"):
            opened.set()

    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(daemon())
        # py is the language with the most warm sandboxes; once all of its starts wait, the daemon has opened or never will
        await wait_until(lambda: executor.tried >= 5, "sandboxes start")
        for _ in range(100):
            await asyncio.sleep(0)
        early = opened.is_set()
        executor.may_start.set()
        await running
    return early


async def started_at_once(world: World) -> object:
    settings = world.settings()
    return len(Policy(20, 1, settings.pool).plan(0.0).start)


async def refills(world: World) -> object:
    """When a pool that has just filled, and from which a sandbox is taken 0.5 s later, looks again, in seconds."""
    policy = Policy(1, 5, world.settings().pool)
    (seat,) = policy.plan(0.0).start
    policy.ready(seat, SimpleNamespace(tenant=""), 0.1)  # type: ignore[arg-type]
    policy.plan(0.1)
    assert policy.take("") is seat
    plan = policy.plan(0.5)
    return "at once" if plan.start else plan.again_at


# --- HTTP ----------------------------------------------------------------------------------------------------------


def status(path: str, **headers: str) -> Look:
    async def look(world: World) -> object:
        world.environ.setdefault("API_KEY", OTHER)
        async with world.http() as client:
            return (await client.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})).status_code

    return look


async def host(world: World) -> object:
    async with world.daemon(Fake(), "ingress.http.port=0", "pool.enabled=no") as daemon:
        return daemon.addresses["http"].partition("//")[2].partition(":")[0]


async def port(world: World) -> object:
    return world.settings().ingress["http"].listens()[0][1]


def allowed_origin(**environ: str) -> Look:
    async def look(world: World) -> object:
        world.environ.update(environ)
        async with world.http() as client:
            asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
            return (await client.options("/exec", headers=asked)).headers.get("access-control-allow-origin") is not None

    return look


# --- logs ----------------------------------------------------------------------------------------------------------


def lines(logger: str, *levels: str) -> Look:
    async def look(world: World) -> object:
        def write() -> None:
            for level in levels:
                getattr(structlog.get_logger(logger), level)(level)

        return [line["event"] for line in world.logged(write)]

    return look


async def log_format(world: World) -> object:
    file = world.directory / "log"
    world.environ["LOG_FILE"] = str(file)
    with open_log(world.settings().log):
        structlog.get_logger("runnerd.x").info("it happened", n=1)
    return file.read_text().startswith("{")


async def log_file(world: World) -> object:
    with open_log(world.settings().log):
        structlog.get_logger("runnerd.x").info("it happened")
    return Path("here.log").exists()


async def log_backups(world: World) -> object:
    world.environ.update(LOG_FILE=str(world.directory / "log"), RUNNERD_LOG_FILE_BYTES="200")
    with open_log(world.settings().log):
        for n in range(30):
            structlog.get_logger("runnerd.x").info("it happened", n=n, padding="x" * 100)
    return len(list(world.directory.glob("log.*")))


async def log_size(world: World) -> object:
    world.environ["LOG_FILE"] = str(world.directory / "log")
    with open_log(world.settings().log):
        for n in range(30):
            structlog.get_logger("runnerd.x").info("it happened", n=n, padding="x" * 100_000)
    return len(list(world.directory.glob("log.*")))


WARM = {"py": 5, "js": 2}
CODES = ("py", "js", "ts", "go", "java", "rs", "c", "cpp", "php", "r", "f90", "d")
EFFECTS = {
    "MAX_EXECUTION_TIME": Effect("0.3", overslept, "ok", "timeout"),
    "MAX_MEMORY_MB": Effect("64", overfull, "ok", "oom"),
    "MAX_CPU_QUOTA": Effect("50000", cores, 1.0, 0.5),
    "MAX_PIDS": Effect("40", printed(FORKS), "False", "True"),
    "MAX_OPEN_FILES": Effect("77", printed("import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"), "1024", "77"),
    "MAX_FILE_SIZE_MB": Effect("1", big_file, True, False),
    "MAX_OUTPUT_FILES": Effect("3", many_files, 10, 3),
    "MAX_FILENAME_LENGTH": Effect("20", long_name, "ok", "rejected"),
    "MAX_CONCURRENT_EXECUTIONS": Effect("3", slots, 10, 3),
    "POD_POOL_ENABLED": Effect("false", found_warm, True, False),
    "POD_POOL_WARMUP_ON_STARTUP": Effect("false", opens_before_it_is_warm, False, True),
    "POD_POOL_PARALLEL_BATCH": Effect("2", started_at_once, 5, 2),
    "POD_POOL_REPLENISH_INTERVAL": Effect("4", refills, "at once", 4.0),
    "POD_POOL_EXHAUSTION_TRIGGER": Effect("false", refills, "at once", 2.0),
    **{f"POD_POOL_{code.upper()}": Effect("3", pool_of(code), WARM.get(code, 0), 3) for code in CODES},
    **{f"LANG_IMAGE_{code.upper()}": Effect("mine:1", image_of(code), None, "mine:1") for code in CODES},
    "API_HOST": Effect("127.0.0.2", host, "127.0.0.1", "127.0.0.2"),
    "API_PORT": Effect("9321", port, 8000, 9321),
    "API_KEY": Effect(KEY, status("/health/detailed", x_api_key=KEY), 401, 200),
    "API_KEYS": Effect(f"{'z' * 20}, {KEY}", status("/health/detailed", x_api_key=KEY), 401, 200),
    "API_KEY_HEADER": Effect("x-token", status("/health/detailed", x_token=OTHER), 401, 200),
    "ENABLE_DOCS": Effect("true", status("/docs"), 404, 200),
    "ENABLE_CORS": Effect("true", allowed_origin(), False, True),
    "CORS_ORIGINS": Effect("https://b.example,https://c.example", allowed_origin(ENABLE_CORS="true"), True, False),
    "API_DEBUG": Effect("true", lines("runnerd.x", "debug", "info"), ["info"], ["debug", "info"]),
    "LOG_LEVEL": Effect("Warn", lines("runnerd.x", "info", "warning"), ["info", "warning"], ["warning"]),
    "LOG_FORMAT": Effect("text", log_format, True, False),
    "LOG_FILE": Effect("here.log", log_file, False, True),
    "LOG_MAX_SIZE_MB": Effect("1", log_size, 0, 2),
    "LOG_BACKUP_COUNT": Effect("2", log_backups, 5, 2),
    "ENABLE_ACCESS_LOGS": Effect("false", lines("runnerd.access", "info"), ["info"], []),
    **{name: Effect(*row) for name, row in (STORES | SESSIONS).items()},
    **{name: Effect(*row) for name, row in PODS.items()},
    "ENABLE_SECURITY_LOGS": Effect("false", lines("runnerd.security", "warning"), ["warning"], []),
}


@pytest.mark.parametrize("name", EFFECTS)
async def test_variable_has_its_effect(name: str, tmp_path: Path, executor: LocalExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    effect = EFFECTS[name]
    found = []
    for place, environ in (("without", {}), ("seen", {name: effect.value})):
        directory = tmp_path / place
        directory.mkdir()
        monkeypatch.chdir(directory)
        found.append(await effect.look(World(environ, directory, executor)))
    without, seen = found
    assert seen == effect.seen
    assert without == effect.without if effect.without is not None else without != seen


def test_every_variable_of_the_source_system_has_an_effect_or_a_reason() -> None:
    assert set(NAMES) == set(EFFECTS) | set(LATER)
    assert not set(EFFECTS) & set(LATER)


def test_variables_without_effect_are_named(tmp_path: Path) -> None:
    config = load_config(find_plugins(), environ=dict.fromkeys(LATER, "1"), directory=tmp_path)
    assert len(config.notes) == len(LATER)
    assert all("has no effect yet: " in note for note in config.notes)


def test_a_misspelt_log_level_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"variable LOG_LEVEL: log: level: 'loud' is not known"):
        load_config(find_plugins(), environ={"LOG_LEVEL": "loud"}, directory=tmp_path)
