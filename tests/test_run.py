"""`runnerd run`, as a program: what it submits, shows, saves and exits with."""

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from command import Ended, runnerd, started
from nats_fixture import nats_server, wait_until
from nats_ingress import Bench, bench
from runnerd import File, Result, decode_job
from runnerd.plugins import find_plugins

PLUGINS = find_plugins()


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return tmp_path / "program.py"


@asynccontextmanager
async def daemon(tmp_path: Path, **settings: Any) -> AsyncIterator[tuple[Bench, tuple[str, ...]]]:
    async with bench(tmp_path / "bus", **settings) as b:
        yield b, ("--server", b.server.url)


class TestCommand:
    async def test_output_and_exit_code(self, tmp_path: Path, program: Path) -> None:
        async with daemon(tmp_path) as (b, server):
            program.write_text("echo hello world")
            ended = await runnerd("run", str(program), *server, "--id", "j1", "--tenant", "acme", "--", "-a", "b c")
            assert ended == Ended(0, "hello world", "")
            job = decode_job(b.services.deliveries[0].body, "application/msgpack")
            assert (job.id, job.tenant, job.lang, job.args) == ("j1", "acme", "py", ("-a", "b c"))
            program.write_text("exit 3")
            assert (await runnerd("run", str(program), RUNNERD_URL=b.server.url)).code == 3

    async def test_a_program_on_standard_input(self, tmp_path: Path) -> None:
        async with daemon(tmp_path) as (b, server):
            assert await runnerd("run", "-", *server, "--lang", "js", stdin=b"echo hi") == Ended(0, "hi", "")
            assert b.services.deliveries[0].lang == "js"

    async def test_json(self, tmp_path: Path, program: Path) -> None:
        async with daemon(tmp_path) as (_, server):
            program.write_text("exit 7")
            ended = await runnerd("run", str(program), *server, "--json")
            assert (ended.code, json.loads(ended.out)["status"], json.loads(ended.out)["exit_code"]) == (7, "failed", 7)

    async def test_files_are_saved_or_told(self, tmp_path: Path, program: Path) -> None:
        async with daemon(tmp_path) as (_, server):
            program.write_text("files 2 10")
            out = tmp_path / "out"
            ended = await runnerd("run", str(program), *server)
            assert "not saved: 0.bin, 1.bin" in ended.err
            assert "--out" in ended.err
            assert (await runnerd("run", str(program), *server, "--out", str(out))).code == 0
            assert sorted(path.name for path in out.iterdir()) == ["0.bin", "1.bin"]
            ended = await runnerd("run", str(program), *server, "--out", str(out))
            assert (ended.code, "--force" in ended.err) == (125, True)

    async def test_no_name_that_a_daemon_gives_leads_out(self, tmp_path: Path, program: Path) -> None:
        names = ("../escaped", f"{tmp_path}/escaped", "a/../../escaped", "good")
        async with daemon(tmp_path) as (b, server):
            files = tuple(File(name=name, text="evil") for name in names)
            b.services.results["acme", "j"] = Result(id="j", tenant="acme", lang="py", status="ok", exit_code=0, files=files)
            program.write_text("echo hi")
            out = tmp_path / "out" / "here"
            ended = await runnerd("run", str(program), *server, "--tenant", "acme", "--id", "j", "--out", str(out))
        assert (ended.code, ended.err.count("escaped")) == (125, 3), ended
        assert [path.name for path in tmp_path.rglob("*") if path.name in ("escaped", "good")] == ["good"]

    async def test_a_rejected_job_is_runnerds_failure(self, tmp_path: Path, program: Path) -> None:
        async with daemon(tmp_path) as (_, server):
            program.write_text("x")
            ended = await runnerd("run", str(program), *server, "--lang", "cobol")
            assert (ended.code, ended.out, "cobol" in ended.err) == (125, "", True)

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    async def test_who_ends_the_command_ends_the_job(self, tmp_path: Path, program: Path, number: int, code: int) -> None:
        async with daemon(tmp_path) as (b, server):
            program.write_text("wait")
            process = await started("run", str(program), *server, "--id", "j1")
            await wait_until(lambda: b.services.running, "the job runs", 60)
            process.send_signal(number)
            out, err = await asyncio.wait_for(process.communicate(), 60)
            assert (process.returncode, out, b"Traceback" in err) == (code, b"", False)
            assert b.services.results["default", "j1"].status == "cancelled"

    async def test_a_closed_pipe_ends_it(self, tmp_path: Path, program: Path) -> None:
        reading, writing = os.pipe()
        os.close(reading)
        async with daemon(tmp_path) as (_, server):
            program.write_text("stream 100 1000")
            process = await started("run", str(program), *server, stdout=writing)
            os.close(writing)
            _, err = await asyncio.wait_for(process.communicate(), 60)
            assert (process.returncode, err) == (141, b"")

    async def test_a_server_that_is_named_must_be_there(self, program: Path) -> None:
        program.write_text("x")
        ended = await runnerd("run", str(program), "--server", "nats://127.0.0.1:1")
        assert (ended.code, ended.out) == (125, "")
        assert "nats://127.0.0.1:1" in ended.err
        assert "Traceback" not in ended.err

    async def test_a_server_without_a_daemon_is_told(self, tmp_path: Path, program: Path) -> None:
        program.write_text("x")
        async with nats_server(tmp_path / "bus") as server:
            ended = await runnerd("run", str(program), "--server", server.url)
        assert (ended.code, "no daemon" in ended.err) == (125, True)

    async def test_no_such_file(self) -> None:
        ended = await runnerd("run", "nothing.py", "--server", "nats://127.0.0.1:1")
        assert (ended.code, ended.err) == (125, "runnerd: nothing.py: can't be read: No such file or directory\n")


class TestOwnDaemon:
    """Nothing runs, so the job gets a daemon, a NATS server and a sandbox of its own, all of which end with it."""

    @asynccontextmanager
    async def command(self, tmp_path: Path, *args: str) -> AsyncIterator[asyncio.subprocess.Process]:
        with socket.socket() as taken:  # bound and not listening: nothing else answers there
            taken.bind(("127.0.0.1", 0))
            free = f"ingress.nats.listen=127.0.0.1:{taken.getsockname()[1]}"
            flags = ("--set", free, "--set", "isolation.minimum=process")
            process = await started("run", *flags, *args, cwd=tmp_path, session=True, TMPDIR=str(tmp_path / "tmp"))
            yield process
        if process.returncode is None:
            process.kill()
            await process.wait()
        assert list((tmp_path / "tmp").iterdir()) == []
        await wait_until(lambda: not self.left(process.pid), "none of its processes is left")

    @staticmethod
    def left(session: int) -> list[str]:
        """Command lines of processes in a session."""
        lines = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = stat.read_text().rpartition(")")[2].split()
                if int(fields[3]) == session and fields[0] != "Z":
                    lines.append((stat.parent / "cmdline").read_text())
        return lines

    @pytest.fixture(autouse=True)
    def directory(self, tmp_path: Path) -> None:
        (tmp_path / "tmp").mkdir()

    async def test_it_runs_and_is_gone(self, tmp_path: Path, program: Path) -> None:
        program.write_text("import sys\nprint('hi', sys.argv[1], input())\nopen('new', 'w').write('x')\nsys.exit(5)\n")
        (tmp_path / "in").write_text("line\n")
        args = (str(program), "--stdin", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--", "arg")
        async with self.command(tmp_path, *args) as process:
            out, err = await asyncio.wait_for(process.communicate(), 120)
        assert (process.returncode, out) == (5, b"hi arg line\n"), err
        assert b"a daemon of its own" in err
        assert (tmp_path / "out" / "new").read_text() == "x"

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    async def test_ended_it_takes_everything_along(self, tmp_path: Path, program: Path, number: int, code: int) -> None:
        program.write_text("import time\nprint('started', flush=True)\ntime.sleep(600)\n")
        async with self.command(tmp_path, str(program)) as process:
            assert process.stdout is not None
            assert await asyncio.wait_for(process.stdout.readline(), 120) == b"started\n"  # live, too
            process.send_signal(number)
            _, err = await asyncio.wait_for(process.communicate(), 120)
        assert (process.returncode, b"Traceback" in err) == (code, False), err


class TestLanguages:
    async def test_table_and_json(self, tmp_path: Path) -> None:
        ended = await runnerd("languages", RUNNERD_STATE_DIR=str(tmp_path))
        assert ended.code == 0
        assert "Python" in ended.out
        assert "javascript" in ended.out
        rows = json.loads((await runnerd("languages", "--json", POD_POOL_PY="9")).out)
        python = next(row for row in rows if row["code"] == "py")
        assert (python["warm"], python["version"] != "", python["image"]) == (9, True, "python")
        assert {row["code"] for row in rows} == set(PLUGINS.languages)

    async def test_what_is_missing_comes_with_the_command_that_installs_it(self) -> None:
        rows = json.loads((await runnerd("languages", "--json", "--missing")).out)
        assert all(row["problem"] and not row["version"] for row in rows)
