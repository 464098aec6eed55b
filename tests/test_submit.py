"""`runnerd submit`, `result`, `tail` and `cancel` on NATS, as programs: a real server, also one that is killed meanwhile."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from runnerd_plugins.ingress.nats import Nats
from runnerd_plugins.ingress.nats.jetstream.settings import JetStream
from typer.testing import CliRunner

from command import Ended, ended, runnerd, said, started
from fake_executor import wait_until
from jetstream import FAST, Durable, Executor, durable
from nats_fixture import nats_server
from runnerd.__main__ import app
from runnerd.commands.buses import bus_of
from seed_variables import NAMES


class Commands:
    """The four commands, for one server."""

    def __init__(self, bus: Durable, program: Path) -> None:
        self.bus = bus
        self.program = program

    def arguments(self, *words: str) -> tuple[str, ...]:
        return (*words, "--server", self.bus.server.url, "--tenant", "acme")

    async def __call__(self, *words: str) -> Ended:
        return await runnerd(*self.arguments(*words))

    async def submit(self, code: str, *words: str) -> Ended:
        return await self("submit", self.write(code), *words)

    async def start(self, *words: str) -> asyncio.subprocess.Process:
        return await started(*self.arguments(*words))

    def write(self, code: str) -> str:
        self.program.write_text(code)
        return str(self.program)


@pytest.fixture
async def commands(tmp_path: Path) -> AsyncIterator[Commands]:
    """With streams, and without a daemon."""
    async with durable(tmp_path) as bus:
        await Nats(url=bus.server.url, jetstream=JetStream(**FAST)).prepare(make=True)
        yield Commands(bus, tmp_path / "program.py")


@asynccontextmanager
async def several(*commands: asyncio.subprocess.Process) -> AsyncIterator[list[Ended]]:
    """What programs that run during the block said and exited with; there is something only behind it."""
    found: list[Ended] = []
    async with asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(ended(each)) for each in commands]
        yield found
    found += [each.result() for each in waiting]


async def test_a_job_is_left_to_the_bus_and_its_result_is_there_later(commands: Commands) -> None:
    assert (await commands.submit("fail 3", "--id", "one", "--arg", "x", "--env", "A=1", "--limit", "memory_bytes=64M")) == Ended(
        0, "one\n", ""
    )
    waits, too_early = await asyncio.gather(commands("result", "one"), commands("cancel", "one"))
    assert (waits.code, waits.out) == (123, "")
    assert waits.err == "runnerd: one is queued\nrunnerd: --wait waits for its result\n"
    assert (too_early.code, "try again when one runs" in too_early.err) == (125, True)
    executor = Executor()
    async with commands.bus.daemon(executor):
        result = await commands("result", "one", "--wait")
        assert result.code == 3
        job = executor.ran[0]
        assert (job.args, job.env, job.limits.memory_bytes, job.tenant) == (("x",), {"A": "1"}, 64 << 20, "acme")
        shown, late = await asyncio.gather(commands("result", "one", "--json"), commands("cancel", "one"))
    assert (shown.code, json.loads(shown.out)["status"]) == (3, "failed")
    assert late == Ended(1, "one: failed: it had ended before\n", "")


async def test_an_id_is_made_and_printed_alone(commands: Commands) -> None:
    submitted = await commands.submit("hi")
    assert (submitted.code, submitted.err, len(submitted.out.split())) == (0, "", 1)
    as_json = json.loads((await commands.submit("hi", "--lang", "Python", "--json")).out)
    assert (as_json["lang"], as_json["tenant"]) == ("py", "acme")
    assert await commands.bus.messages("RD_JOBS") == 2


async def test_an_id_again_runs_nothing_and_another_program_is_rejected(commands: Commands) -> None:
    executor = Executor()
    async with commands.bus.daemon(executor):
        assert (await commands.submit("hi", "--id", "one", "--wait")).out == "hi\n"
        again = await commands.submit("hi", "--id", "one")
        assert (again.code, again.out) == (0, "one\n")
        assert "has ended (ok) already, and is not run again: `runnerd result one --tenant acme" in again.err
        for wait in ((), ("--wait",)):
            other = await commands.submit("fail 3", "--id", "one", *wait)
            assert (other.code, other.out, "used for another job" in other.err) == (125, "", True)
        assert executor.starts["one"] == 1


async def test_what_nobody_knows_has_an_exit_code(commands: Commands) -> None:
    async with commands.bus.daemon():
        found = await asyncio.gather(*(commands(word, "typo", "--json") for word in ("result", "tail", "cancel")))
    for each in found:
        assert (each.code, json.loads(each.out)["state"]) == (122, "unknown")
        assert "there is no such job of tenant acme" in each.err


async def test_a_job_is_cancelled_where_it_waits_and_where_it_runs(commands: Commands) -> None:
    executor = Executor()
    async with commands.bus.daemon(executor, slots=1):
        await commands.submit("wait", "--id", "first")
        await wait_until(lambda: executor.running.total() == 1, "it runs")
        await commands.submit("wait", "--id", "second")
        assert await commands("cancel", "second") == Ended(0, "second: cancelled: it was queued\n", "")
        assert await commands("cancel", "first") == Ended(0, "first: cancelled: it was running\n", "")
        assert await commands("cancel", "first") == Ended(0, "first: cancelled: it had been before\n", "")
    assert executor.starts == {"first": 1}


async def test_waiting_shows_output_and_leaving_lets_the_job_go_on(commands: Commands) -> None:
    executor = Executor()
    async with commands.bus.daemon(executor):
        process = await commands.start("submit", commands.write("add 1; wait"), "--id", "one", "--wait")
        await wait_until(lambda: executor.running.total() == 1, "it runs", 60)
        process.send_signal(signal.SIGINT)
        left = await ended(process)
        assert left.code == 130
        assert "the job goes on: `runnerd result one --wait --tenant acme" in left.err
        executor.go.set()
        assert (await commands("result", "one", "--wait")).code == 0
    assert executor.starts["one"] == 1


@pytest.mark.slow
async def test_files_that_a_job_leaves_are_saved_later(commands: Commands, tmp_path: Path) -> None:
    early = await commands.submit("files 2 10", "--out", str(tmp_path / "out"))
    assert (early.code, "runnerd result ID --out DIR" in early.err) == (125, True)
    async with commands.bus.daemon():
        assert (await commands.submit("files 2 10", "--id", "one", "--wait")).code == 0
        assert (await commands("result", "one", "--out", str(tmp_path / "out"))).code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.bin", "1.bin"]


async def test_output_is_followed_from_its_beginning_by_anybody(commands: Commands) -> None:
    executor = Executor()
    async with commands.bus.daemon(executor):
        await commands.submit("stream 3", "--id", "ended")
        await commands.bus.result("ended")
        shown, events = await asyncio.gather(commands("tail", "ended"), commands("tail", "ended", "--json"))
        assert (shown.code, events.code) == (0, 0)
        assert [json.loads(line)["type"] for line in events.out.splitlines()] == ["started", "output", "output", "output", "result"]


async def test_a_killed_server_comes_back_and_all_go_on(commands: Commands) -> None:
    executor = Executor()
    bus = commands.bus
    async with bus.daemon(executor):
        waiting = await commands.start("submit", commands.write("wait"), "--id", "one", "--wait")
        await said(waiting, "job one")
        tailing = await commands.start("tail", "one")
        await said(tailing, "runnerd: one")
        await wait_until(lambda: executor.running["one"] == 1, "it runs")
        await bus.server.kill()
        executor.go.set()
        await bus.server.start()
        async with several(waiting, tailing) as found:
            pass
    assert [(each.code, each.out) for each in found] == [(0, "hi\n"), (0, "hi\n")]
    assert executor.starts["one"] == 1


@pytest.mark.slow
async def test_a_server_that_stays_away_is_told_with_the_way_back(commands: Commands) -> None:
    executor = Executor()
    bus = commands.bus
    async with bus.daemon(executor):
        waiting = await commands.start("submit", commands.write("wait"), "--id", "one", "--wait", "--patience", "1")
        await said(waiting, "job one")
        tailing = await commands.start("tail", "one", "--patience", "1")
        await said(tailing, "runnerd: one")
        await wait_until(lambda: executor.running["one"] == 1, "it runs")
        await bus.server.kill()
        async with several(waiting, tailing) as found:
            pass
        for each in found:
            assert (each.code, each.out) == (125, "")
            assert "no connection" in each.err
            assert "the job goes on: `runnerd result one --wait --tenant acme" in each.err
        executor.go.set()
        await bus.server.start()
        assert (await commands("result", "one", "--wait")).code == 0
    assert executor.starts["one"] == 1


async def test_a_daemon_is_asked_directly(commands: Commands) -> None:
    nobody = await commands.submit("hi", "--direct", "--patience", "0.2")
    assert (nobody.code, "no daemon takes jobs" in nobody.err, "goes on" in nobody.err) == (125, True, False)
    async with commands.bus.daemon():
        assert (await commands.submit("hi", "--direct")).out == "hi\n"
        assert (await commands.submit("fail 4", "--direct", "--id", "direct")).code == 4
        assert (await commands("result", "direct")).code == 4
    assert await commands.bus.messages("RD_JOBS") == 0


async def test_a_server_without_streams_is_told_with_the_fix(tmp_path: Path) -> None:
    (program := tmp_path / "program.py").write_text("hi")
    async with nats_server(tmp_path / "server") as server:
        found = await runnerd("submit", str(program), "--server", server.url, "--patience", "0.2")
    assert (found.code, found.out) == (125, "")
    assert "no stream takes rd.v1.job.default.std.py." in found.err
    assert "`runnerd bus init` makes it" in found.err


NOWHERE = ("--server", "nats://127.0.0.1:1")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("submit", "p.py", *NOWHERE), "nats://127.0.0.1:1: no connection"),
        (("tail", "x", *NOWHERE), "start a daemon there with `runnerd serve`, or name another bus with --server"),
        (("submit", "p.py", "--limit", "memory=1", *NOWHERE), "--limit memory=1: write NAME=VALUE, with one of the names wall_s"),
        (("submit", "p.py", "--limit", "file_bytes=1X", *NOWHERE), "--limit file_bytes=1X: write bytes, such as 1048576 or 64M"),
        (("submit", "p.py", "--limit", "cpu_s=0", *NOWHERE), "--limit cpu_s=0: write a number above 0"),
        (("submit", "p.py", "--limit", "wall_s=1", "--timeout", "1", *NOWHERE), "--timeout says it too"),
        (("submit", "p.py", "--id", "a/b", *NOWHERE), "'a/b': write letters, digits, - and _"),
        (("submit", "p.py", "--tenant", "ü", *NOWHERE), "--tenant 'ü': write letters"),
        (("submit", "p.py", "--env", "NOT_SET_HERE", *NOWHERE), "--env NOT_SET_HERE: is not set here"),
        (("submit", "p.py", "--file", "../x=p.py", *NOWHERE), "--file ../x=p.py"),
        (("submit", "p.py", "--class", "hi", "--direct", *NOWHERE), "leave --direct or --class out"),
        (("submit", "p.py", "--class", "urgent", "--set", "ingress.nats.url=nats://127.0.0.1:1"), "use one of hi, std, low"),
        (("submit", "p.py", "--direct", "--server", "amqp://127.0.0.1:1"), "RabbitMQ keeps every job"),
        (("submit", "nothing.py", *NOWHERE), "nothing.py: can't be read: No such file"),
        (("result", "x", "--bus", "kafka"), "--bus kafka: is not known: use nats or rabbitmq"),
        (("result", "x", "--bus", "rabbitmq", *NOWHERE), "--server names a server of nats"),
        (("result", "x", "--bus", "rabbitmq"), "the configuration has no ingress of kind rabbitmq"),
        (("cancel", "x", "--server", "http://127.0.0.1"), "http:// is no bus: write nats://host:4222 or amqp://host:5672/vhost"),
        (("cancel", "x", "--server", "amqp://user:secret@:1"), "write it as amqp://host:5672/vhost"),
    ],
)
def test_mistakes_are_told(words: tuple[str, ...], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    Path("p.py").write_text("hi")
    found = CliRunner().invoke(app, words)
    assert (found.exit_code, found.stdout) == (125, ""), found.exception
    assert line in found.stderr
    assert "secret" not in found.stderr


@pytest.mark.parametrize(
    ("toml", "kind", "address"),
    [
        ("", "nats", "nats://127.0.0.1:4222"),
        ("[ingress.nats]\nurl = 'nats://n:1'\n[ingress.rabbitmq]\nurl = 'amqp://r'", "nats", "nats://n:1"),
        ("[ingress.rabbitmq]\nurl = 'amqp://r:1/v'\nuser = 'a/b'\npassword = 'p w'", "rabbitmq", "amqp://a%2Fb:p%20w@r:1/v"),
        ("[ingress.nats]\nenabled = false\n[ingress.rabbitmq]\nurl = 'amqp://u:p@r'\nvhost = '/'", "rabbitmq", "amqp://u:p@r/%2F"),
    ],
)
def test_the_configuration_has_the_bus(toml: str, kind: str, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    Path("runnerd.toml").write_text(toml)
    bus = bus_of(server="", kind="", inbox="", file="", flags=())
    assert (bus.kind, bus.access()["url"]) == (kind, address)
