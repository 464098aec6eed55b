"""`runnerd run`, as a program: what it submits, shows, saves and exits with."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nats_fixture import nats_server, wait_until
from nats_ingress import Bench, bench
from runnerd import File, Output, Rejected, Result, RunnerdError, Skipped, Stage, Started, decode_job
from runnerd.commands.live import Closed, Live, exit_code, unsaved, verdict
from runnerd.commands.outfiles import save_files
from runnerd.commands.program import language_of, read_job
from runnerd.plugins import find_plugins

PLUGINS = find_plugins()


class Ended(msgspec.Struct):
    code: int
    out: str
    err: str


async def runnerd(*args: str, stdin: bytes = b"", **env: str) -> Ended:
    process = await started(*args, **env)
    out, err = await asyncio.wait_for(process.communicate(stdin), 120)
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


async def started(*args: str, stdout: int = asyncio.subprocess.PIPE, **env: str) -> asyncio.subprocess.Process:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RUNNERD_", "NATS_"))}
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "runnerd", *args, stdin=pipe, stdout=stdout, stderr=pipe, env={**clean, **env}
    )


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return tmp_path / "program.py"


@asynccontextmanager
async def daemon(tmp_path: Path, **settings: Any) -> AsyncIterator[tuple[Bench, tuple[str, ...]]]:
    async with bench(tmp_path / "bus", **settings) as b:
        yield b, ("--server", b.server.url)


class TestProgram:
    def test_the_file_and_its_options_become_a_job(self, tmp_path: Path, program: Path) -> None:
        program.write_text("print('ä')")
        (tmp_path / "in.bin").write_bytes(b"\0\xff")
        (tmp_path / "data=1").write_bytes(b"d")
        job = read_job(
            str(program),
            ["-x", "y"],
            plugins=PLUGINS,
            stdin=str(tmp_path / "in.bin"),
            inputs=[f"sub/data.csv={tmp_path / 'data=1'}", str(tmp_path / "in.bin")],
            timeout_s=1.5,
            job_id="j1",
        )
        assert (job.id, job.lang, job.code, job.args, job.input) == ("j1", "py", "print('ä')", ("-x", "y"), b"\0\xff")
        assert [(file.name, file.content) for file in job.files] == [("sub/data.csv", b"d"), ("in.bin", b"\0\xff")]
        assert job.limits.wall_s == 1.5
        assert read_job(str(program), [], plugins=PLUGINS).id != ""

    @pytest.mark.parametrize(
        ("name", "code", "lang"),
        [
            ("a.py", "", "py"),
            ("A.CPP", "", "cpp"),
            ("a.b.ts", "", "ts"),
            ("tool", "#!/usr/bin/env python3\n", "py"),
            ("tool", "#!/usr/bin/env -S node --x\n", "js"),
            ("tool", "#!/bin/bash -e\n", "bash"),
            ("-", "print(1)", "py"),
            ("-", "#!/usr/bin/env bash\n", "bash"),
        ],
    )
    def test_its_language(self, name: str, code: str, lang: str) -> None:
        assert language_of(name, code, PLUGINS) == lang

    def test_an_unknown_suffix_lists_those_known(self) -> None:
        with pytest.raises(RunnerdError, match=r"a\.xyz: .*--lang.*\.py \(py\)"):
            language_of("a.xyz", "", PLUGINS)

    def test_what_can_not_be_read_is_named(self, tmp_path: Path, program: Path) -> None:
        with pytest.raises(RunnerdError, match=r"program\.py: can't be read: No such file"):
            read_job(str(program), [], plugins=PLUGINS)
        program.write_bytes(b"print('\xff')")
        with pytest.raises(RunnerdError, match=r"program\.py: is not UTF-8 at byte 7"):
            read_job(str(program), [], plugins=PLUGINS)
        program.write_text("")
        with pytest.raises(RunnerdError, match="nothing-here: can't be read"):
            read_job(str(program), [], plugins=PLUGINS, inputs=["x=nothing-here"])
        with pytest.raises(Rejected, match="--file"):
            read_job(str(program), [], plugins=PLUGINS, inputs=["../x=nothing-here"])
        with pytest.raises(RunnerdError, match="--stdin -"):
            read_job("-", [], plugins=PLUGINS, stdin="-")


class TestLive:
    def output(self, seq: int, text: str, **fields: Any) -> Output:
        return Output(**{"id": "j", "stream": "stdout", "seq": seq, "text": text, **fields})

    async def test_output_is_written_as_it_comes_and_once(self, capfd: pytest.CaptureFixture[str]) -> None:
        live = Live()
        await live.show(Started(id="j", stage="run"))
        await live.show(self.output(1, "a\n"))
        await live.show(self.output(1, "e\n", stream="stderr"))
        assert capfd.readouterr() == ("a\n", "e\n")
        await live.show(self.output(2, "b\n"))
        await live.show(Result(status="ok", stdout="a\nb\n", stderr="e\n"))
        assert capfd.readouterr() == ("b\n", "")

    async def test_what_was_lost_on_the_way_comes_with_the_result(self, capfd: pytest.CaptureFixture[str]) -> None:
        live = Live()
        await live.show(self.output(1, "a"))
        await live.show(self.output(3, "c"))
        await live.show(self.output(4, "d"))
        await live.show(Result(status="ok", stdout="abcd", stderr="e"))
        assert capfd.readouterr() == ("abcd", "e")

    async def test_bytes_stay_bytes(self, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
        live = Live()
        await live.show(self.output(1, "\ufffd\0", data=b"\xff\0"))
        await live.show(Result(status="ok", stdout="\ufffd\0x", stdout_bytes=b"\xff\0x"))
        assert capfdbinary.readouterr() == (b"\xff\0x", b"")

    async def test_a_compiler_speaks_on_stderr(self, capfd: pytest.CaptureFixture[str]) -> None:
        live = Live()
        await live.show(self.output(1, "warn", stage="compile"))
        await live.show(self.output(1, "out"))
        await live.show(Result(status="ok", stdout="out", compile=Stage(exit_code=0, stdout="warning", stderr="!")))
        assert capfd.readouterr() == ("out", "warning!")

    async def test_a_second_start_begins_anew(self, capfd: pytest.CaptureFixture[str]) -> None:
        live = Live()
        await live.show(self.output(1, "half"))
        await live.show(Started(id="j", stage="run", start=2))
        await live.show(self.output(1, "whole"))
        await live.show(Result(status="ok", stdout="whole"))
        out, err = capfd.readouterr()
        assert (out, "started again" in err) == ("halfwhole", True)

    async def test_a_reader_that_went_away_is_noticed(self) -> None:
        reading, writing = os.pipe()
        kept = os.dup(1)
        os.close(reading)
        os.dup2(writing, 1)
        try:
            with pytest.raises(Closed):
                await Live().show(self.output(1, "x"))
        finally:
            os.dup2(kept, 1)
            os.close(kept)
            os.close(writing)

    @pytest.mark.parametrize(
        ("result", "code", "words"),
        [
            (Result(status="ok", exit_code=0), 0, ""),
            (Result(status="failed", exit_code=3), 3, ""),
            (Result(status="failed", signal=11), 139, "SIGSEGV"),
            (Result(status="failed", stage="compile", compile=Stage(exit_code=2)), 2, ""),
            (Result(status="timeout", limit="wall_s", reason="used up"), 124, "timeout (wall_s): used up"),
            (Result(status="oom"), 137, "oom"),
            (Result(status="limit", limit="files", exit_code=0), 1, "limit (files)"),
            (Result(status="cancelled"), 130, "cancelled"),
            (Result(status="rejected", reason="lang: unknown"), 125, "rejected: lang: unknown"),
            (Result(status="expired"), 125, "expired"),
            (Result(status="dead", reason="no sandbox"), 125, "dead: no sandbox"),
        ],
    )
    def test_exit_codes_and_verdicts(self, result: Result, code: int, words: str) -> None:
        assert exit_code(result) == code
        assert words in "\n".join(verdict(result))
        assert words or not verdict(result)

    def test_names_of_files_can_not_steer_the_terminal(self) -> None:
        skipped = (Skipped(name="\x1b[2Jx", reason="too large"),)
        result = Result(status="ok", files=(File(name="\x1b]0;x", text=""),), skipped=skipped)
        assert "\x1b" not in unsaved(result) + "".join(verdict(result))


class TestOutfiles:
    @pytest.fixture
    def out(self, tmp_path: Path) -> Iterator[Path]:
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "kept").write_text("kept")
        handles = len(os.listdir("/proc/self/fd"))
        yield tmp_path / "out"
        assert [(path.name, path.read_text()) for path in outside.iterdir()] == [("kept", "kept")]
        assert len(os.listdir("/proc/self/fd")) == handles

    def test_files_are_saved_with_their_directories(self, out: Path) -> None:
        assert save_files([File(name="a.bin", data=b"\0\xff"), File(name="d/e/f.txt", text="ä")], out) == 2
        assert (out / "a.bin").read_bytes() == b"\0\xff"
        assert (out / "d/e/f.txt").read_text() == "ä"

    @pytest.mark.parametrize("name", ["../outside/x", "/etc/x", "a/../../outside/x", "", ".", "..", "a\0b", "a\nb", "a//b", "x" * 300])
    def test_no_name_leads_out(self, out: Path, name: str) -> None:
        with pytest.raises(RunnerdError, match="not saved"):
            save_files([File(name=name, text="evil"), File(name="good", text="good")], out)
        assert [path.name for path in out.iterdir()] == ["good"]

    @pytest.mark.parametrize("force", [False, True])
    def test_links_in_the_directory_are_not_followed(self, out: Path, force: bool) -> None:
        out.mkdir()
        (out / "link").symlink_to(out.parent / "outside" / "kept")
        (out / "dir").symlink_to(out.parent / "outside")
        os.link(out.parent / "outside" / "kept", out / "hard")
        files = [File(name=name, text="evil") for name in ("link", "dir/kept", "hard")]
        with pytest.raises(RunnerdError):
            save_files(files, out, force=force)
        assert (out / "link").is_symlink() is not force

    def test_nothing_is_replaced_without_force(self, out: Path) -> None:
        out.mkdir()
        (out / "a").write_text("old")
        with pytest.raises(RunnerdError, match=r"a: is there already.*--force"):
            save_files([File(name="a", text="new")], out)
        assert (out / "a").read_text() == "old"
        save_files([File(name="a", text="new")], out, force=True)
        assert (out / "a").read_text() == "new"

    def test_what_stands_in_the_way_is_named(self, out: Path) -> None:
        out.mkdir()
        (out / "file").write_text("")
        (out / "dir").mkdir()
        for name, words in (("file/x", "file/x"), ("dir", "dir")):
            with pytest.raises(RunnerdError, match=words):
                save_files([File(name=name, text="")], out, force=True)
        with pytest.raises(RunnerdError, match="--out"):
            save_files([], out / "file")


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
