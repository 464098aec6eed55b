"""Interactive jobs: standard input that comes while they run, and answers that depend on what they wrote."""

import asyncio
import json
import shlex
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import nats.errors
import pytest
from nats.aio.client import Client

from command import runnerd, started
from hosting import hosted
from nats_fixture import nats_client
from runnerd import Conflict, Job, NotFound, OverLimit, Rejected, Result
from runnerd.config import load_config
from runnerd.daemon import Daemon, open_daemon
from runnerd.plugins import find_plugins
from runnerd.stdin import Stdin


class TestStdin:
    async def test_what_came_before_the_start_is_kept_in_order(self) -> None:
        stdin = Stdin(10)
        await stdin.feed(b"one")
        await stdin.feed(b"two")
        written: list[tuple[bytes, bool]] = []

        async def write(data: bytes, end: bool) -> None:
            written.append((data, end))

        assert stdin.open(write) == (b"onetwo", False)
        await stdin.feed(b"three")
        await stdin.feed(b"", end=True)
        await stdin.feed(b"late")
        assert written == [(b"three", False), (b"", True)]

    async def test_only_so_much_is_kept(self) -> None:
        stdin = Stdin(4)
        await stdin.feed(b"1234")
        with pytest.raises(OverLimit, match=r"limits\.input_bytes"):
            await stdin.feed(b"5")

    async def test_an_end_before_the_start(self) -> None:
        stdin = Stdin(4)
        await stdin.feed(b"x", end=True)

        async def write(data: bytes, end: bool) -> None:
            raise AssertionError("nothing comes after the end")

        assert stdin.open(write) == (b"x", True)
        await stdin.feed(b"y")


@pytest.fixture(scope="module")
async def daemon(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Daemon]:
    directory = tmp_path_factory.mktemp("interactive")
    plugins = find_plugins()
    flags = [f"state_dir={directory}", "ingress.nats.listen=127.0.0.1:0", "ingress.http.enabled=false", "isolation.minimum=process"]
    settings = load_config(plugins, flags=flags, environ={}, directory=directory).settings
    only = msgspec.structs.replace(plugins, languages={code: plugins.languages[code] for code in ("py", "bash")})
    async with hosted(open_daemon(settings, only)) as daemon:
        yield daemon


@pytest.fixture
async def client(daemon: Daemon) -> AsyncIterator[Client]:
    async with nats_client(daemon.addresses["nats"].split()[0]) as client:
        yield client


async def send(client: Client, job: str, data: bytes, **headers: str) -> dict[str, Any]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = await client.request(f"rd.v1.stdin.acme.{job}", data, timeout=20, headers=named or None)
    body: dict[str, Any] = json.loads(answer.data)
    return body


QUIZ = """
while True:
    try:
        name = input("name? ")
    except EOFError:
        print("bye")
        break
    print("hello", name, flush=True)
"""


@pytest.mark.parametrize(
    ("lang", "code"), [("py", QUIZ), ("bash", 'while read -r name; do echo "name? hello $name"; done; echo "name? bye"')]
)
async def test_a_dialogue(client: Client, lang: str, code: str) -> None:
    """Each answer is sent only after what the program asked has come."""
    job = f"quiz-{lang}"
    inbox = client.new_inbox()
    events = await client.subscribe(inbox)
    body = {"id": job, "code": code, "interactive": True, "stdin": "zero\n"}
    await client.publish(f"rd.v1.run.acme.{lang}", json.dumps(body).encode(), reply=inbox, headers={"Rd-Stream": "reply"})
    said, greeted, names = "", 0, ["zero", "one", "two"]
    result: dict[str, Any] = {}
    while not result:
        event = json.loads((await events.next_msg(timeout=30)).data)
        if event["type"] == "result":
            result = event
        elif event["type"] == "output":
            said += event["text"]
            if greeted < len(names) and f"hello {names[greeted]}\n" in said:
                greeted += 1
                if greeted < len(names):
                    assert await send(client, job, names[greeted].encode() + b"\n") == {"id": job, "bytes": 4, "end": False}
                else:
                    assert (await send(client, job, b"", Rd_Eof="1"))["end"] is True
    assert result["status"] == "ok", result
    assert result["stdout"] == "name? hello zero\nname? hello one\nname? hello two\nname? bye\n"


async def test_input_that_comes_before_the_job_runs(daemon: Daemon) -> None:

    job = Job(id="early", tenant="acme", lang="py", code="print(input())", interactive=True)
    events = daemon.submit(job)
    waiting = asyncio.ensure_future(anext(events))
    while await daemon.status("acme", "early") is None:
        await asyncio.sleep(0)
    await daemon.feed("acme", "early", b"there\n", end=True)
    result = await waiting
    assert isinstance(result, Result)
    assert (result.status, result.stdout) == ("ok", "there\n")
    with pytest.raises(Conflict, match="has ended"):
        await daemon.feed("acme", "early", b"late")
    with pytest.raises(NotFound):
        await daemon.feed("acme", "unknown", b"late")


async def test_only_interactive_jobs_take_more(client: Client, daemon: Daemon) -> None:
    running = asyncio.ensure_future(
        client.request("rd.v1.run.acme.py", json.dumps({"id": "plain", "code": "import time; time.sleep(60)"}).encode(), timeout=60)
    )
    while await daemon.status("acme", "plain") != "running":
        await asyncio.sleep(0.01)
    assert "interactive" in (await send(client, "plain", b"x"))["error"]
    with pytest.raises(Rejected):
        await daemon.feed("acme", "plain", b"x")
    await daemon.cancel("acme", "plain")
    await running
    with pytest.raises(nats.errors.TimeoutError):
        await client.request("rd.v1.stdin.acme.nothing", b"x", timeout=0.2)


async def test_a_program_that_does_not_read_slows_its_sender_only(client: Client, daemon: Daemon) -> None:
    body = {"id": "deaf", "code": "import time; time.sleep(60)", "interactive": True}
    running = asyncio.ensure_future(client.request("rd.v1.run.acme.py", json.dumps(body).encode(), timeout=60))
    while await daemon.status("acme", "deaf") != "running":
        await asyncio.sleep(0.01)
    sender = asyncio.gather(*(daemon.feed("acme", "deaf", bytes(1 << 20)) for _ in range(64)))
    answer = await client.request("rd.v1.run.acme.py", b'{"code": "print(1)"}', timeout=60)
    assert json.loads(answer.data)["stdout"] == "1\n"
    assert not sender.done(), "the sender waits"
    await daemon.cancel("acme", "deaf")
    await asyncio.wait_for(sender, 30)
    assert json.loads((await running).data)["status"] == "cancelled"


class TestCommand:
    """`runnerd run --interactive`."""

    async def test_a_dialogue(self, daemon: Daemon, tmp_path: Path) -> None:
        (tmp_path / "quiz.py").write_text(QUIZ)
        server = daemon.addresses["nats"].split()[0]
        process = await started("run", str(tmp_path / "quiz.py"), "--interactive", "--server", server)
        assert process.stdin is not None
        assert process.stdout is not None
        for name in (b"one", b"two"):
            await process.stdout.readuntil(b"name? ")
            process.stdin.write(name + b"\n")
            assert await process.stdout.readline() == b"hello " + name + b"\n"
        process.stdin.close()
        assert await process.stdout.read() == b"name? bye\n"
        assert await process.wait() == 0

    @pytest.mark.parametrize("code", ["print('bye')", "import sys; print(len(sys.stdin.read()))"])
    async def test_input_from_a_file(self, daemon: Daemon, tmp_path: Path, code: str) -> None:
        """It is sent, with its end, and a program that does not read it ends all the same."""
        (tmp_path / "program.py").write_text(code)
        (tmp_path / "input").write_bytes(b"x" * 500_000)
        server = daemon.addresses["nats"].split()[0]
        command = f"{shlex.quote(sys.executable)} -m runnerd run program.py -i --server {server} < input"
        process = await asyncio.create_subprocess_shell(command, stdout=asyncio.subprocess.PIPE, cwd=tmp_path)
        out, _ = await process.communicate()
        assert (process.returncode, out) == (0, b"bye\n" if "bye" in code else b"500000\n")

    async def test_the_program_can_not_come_from_there_too(self) -> None:
        ended = await runnerd("run", "-", "-i")
        assert (ended.code, "--interactive" in ended.err) == (125, True)
