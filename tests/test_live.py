"""What `runnerd run` shows of a job, and how it exits."""

import os
from typing import Any

import pytest

from runnerd import File, Output, Result, Skipped, Stage, Started
from runnerd.commands.live import Closed, Live, exit_code, unsaved, verdict


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

    async def test_who_comes_late_sees_what_comes_and_is_told_once(self, capfd: pytest.CaptureFixture[str]) -> None:
        live = Live(missed="some is missing")
        await live.show(self.output(3, "c"))
        await live.show(self.output(4, "d"))
        await live.show(self.output(2, "E", stream="stderr"))
        await live.show(Result(status="ok", stdout="abcd", stderr="eE"))
        assert capfd.readouterr() == ("cd", "runnerd: some is missing\nE")

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
