"""The embedded nats-server: a child that comes and goes with its daemon."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from runnerd_plugins.ingress.nats import Nats
from runnerd_plugins.ingress.nats.log import log

from fake_services import FakeServices
from nats_fixture import nats_client, wait_until
from nats_ingress import result_of
from runnerd import Counters, IngressError, Job, encode


def embedded(directory: Path, **settings: object) -> Nats:
    return Nats(listen="127.0.0.1:0", state_dir=str(directory), **settings)  # type: ignore[arg-type]


def children_in(directory: Path) -> Iterator[int]:
    """Processes that run with a configuration below `directory`."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes().split(b"\0")
                if str(directory / "nats" / "nats.conf").encode() in command and not is_zombie(entry):
                    yield int(entry.name)


def is_zombie(entry: Path) -> bool:
    return (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"


async def run(url: str, **options: object) -> str:
    async with nats_client(url, **options) as client:
        return result_of(await client.request("rd.v1.run.acme.py", encode(Job(code="echo hi")), timeout=30)).stdout


async def test_runs_jobs_and_is_gone_afterwards(tmp_path: Path) -> None:
    async with embedded(tmp_path).open(FakeServices()) as url:
        assert url.startswith("nats://127.0.0.1:")
        assert await run(url) == "hi"
        (server,) = children_in(tmp_path)
        config = tmp_path / "nats" / "nats.conf"
        assert stat.S_IMODE(config.stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "nats").stat().st_mode) == 0o700
        environment = Path(f"/proc/{server}/environ").read_bytes().split(b"\0")
        assert [name for name in environment if name and not name.startswith(b"PATH=")] == []
        assert os.getsid(server) != os.getsid(0), "Ctrl-C would end it before the daemon has drained"
        assert json.loads(config.read_text())["logfile_size_limit"] == 16 << 20
    assert list(children_in(tmp_path)) == []
    assert (tmp_path / "nats" / "nats-server.log").exists()


async def test_jetstream_is_on_and_survives(tmp_path: Path) -> None:
    for expected in (0, 1):
        async with embedded(tmp_path).open(FakeServices()) as url, nats_client(url) as client:
            js = client.jetstream()
            if not expected:
                await js.add_stream(name="KEPT", subjects=["kept.>"])
                await js.publish("kept.one", b"1")
            assert (await js.stream_info("KEPT")).state.messages == 1


async def test_a_crashed_server_is_started_again_on_its_port(tmp_path: Path) -> None:
    services = FakeServices()
    async with embedded(tmp_path).open(services) as url, nats_client(url) as client:
        for _ in range(2):
            (server,) = children_in(tmp_path)
            os.kill(server, signal.SIGKILL)
            await wait_until(lambda server=server: [pid for pid in children_in(tmp_path) if pid != server], "a new server")
            async with asyncio.timeout(60):
                while True:
                    with contextlib.suppress(Exception):
                        answer = await client.request("rd.v1.run.acme.py", encode(Job(code="echo hi")), timeout=1)
                        break
                    await asyncio.sleep(0.02)
            assert result_of(answer).stdout == "hi"
    assert list(children_in(tmp_path)) == []


DAEMON = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from fake_services import FakeServices
from runnerd_plugins.ingress.nats import Nats

async def main():
    async with Nats(listen="127.0.0.1:0", state_dir=sys.argv[2]).open(FakeServices()) as url:
        print(url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_killed_daemon_leaves_no_server_and_the_next_one_starts(tmp_path: Path) -> None:
    tests = str(Path(__file__).parent)
    daemon = await asyncio.create_subprocess_exec(sys.executable, "-c", DAEMON, tests, str(tmp_path), stdout=asyncio.subprocess.PIPE)
    assert daemon.stdout is not None
    try:
        async with asyncio.timeout(60):
            while not (line := await daemon.stdout.readline()).startswith(b"nats://"):
                assert line, "the daemon ended"
        assert len(list(children_in(tmp_path))) == 1
    finally:
        daemon.kill()
        await daemon.wait()
        await daemon.stdout.read()
    async with embedded(tmp_path).open(FakeServices()) as url:  # at once: it waits for the lock that the server inherited
        assert await run(url) == "hi"
        assert len(list(children_in(tmp_path))) == 1
    await wait_until(lambda: not list(children_in(tmp_path)), "no server is left")


async def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(IngressError, match=f'127.0.0.1:{port}: Address already in use.*url = "nats://127.0.0.1:{port}"'):
            async with Nats(listen=f"127.0.0.1:{port}", state_dir=str(tmp_path)).open(FakeServices()):
                raise AssertionError
    assert list(children_in(tmp_path)) == []


async def test_two_daemons_never_share_a_directory(tmp_path: Path) -> None:
    async with embedded(tmp_path).open(FakeServices()) as url:
        with pytest.raises(IngressError, match="another daemon uses it"):
            async with embedded(tmp_path, server_stop_s=0.1).open(FakeServices()):
                raise AssertionError
        assert await run(url) == "hi"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"listen": "4222"}, "write an address and a port"),
        ({"listen": "0.0.0.0:0"}, "set user and password, or token"),
        ({"server": "no-such-program"}, "no no-such-program"),
        ({"server": "/bin/false"}, "did not start: it said nothing"),
    ],
)
async def test_settings_that_do_not_work_are_named(tmp_path: Path, settings: dict[str, str], says: str) -> None:
    with pytest.raises(IngressError, match=says):
        async with Nats(**{"listen": "127.0.0.1:0", "state_dir": str(tmp_path), **settings}).open(FakeServices()):
            raise AssertionError


async def test_the_servers_own_words_are_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "nats").mkdir()
    (tmp_path / "nats" / "jetstream").write_text("a file where a directory has to be")
    with pytest.raises(IngressError, match=r"did not start: .*(jetstream|JetStream|store)"):
        async with embedded(tmp_path).open(FakeServices()):
            raise AssertionError
    assert list(children_in(tmp_path)) == []


async def test_it_asks_for_what_the_daemon_shows(tmp_path: Path) -> None:
    async with embedded(tmp_path, user="me", password='p"{$w').open(FakeServices()) as url:
        assert await run(url, user="me", password='p"{$w') == "hi"
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b'CONNECT {"verbose":false}\r\nPING\r\n')
        assert b"Authorization Violation" in await reader.read()
        writer.close()
        await writer.wait_closed()


async def test_a_server_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    ingress = embedded(tmp_path, server_stop_s=0.2)
    async with ingress._embedded().open(Counters(log)):
        (server,) = children_in(tmp_path)
        os.kill(server, signal.SIGSTOP)
    assert list(children_in(tmp_path)) == []
