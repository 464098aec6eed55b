"""How `runnerd run` makes a job of files and options."""

from pathlib import Path

import pytest

from runnerd import Limits, Rejected, RunnerdError
from runnerd.commands.program import language_of, read_job
from runnerd.plugins import find_plugins

PLUGINS = find_plugins()


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return tmp_path / "program.py"


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

    def test_variables_and_limits(self, program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        program.write_text("")
        monkeypatch.setenv("OURS", "here")
        limits = ["memory_bytes=64M", "output_bytes=1KiB", "file_bytes=7", "cpu_s=0.5", "files=3"]
        job = read_job(str(program), [], plugins=PLUGINS, env=["A=b=c", "E=", "OURS"], limits=limits, queue_ttl_s=9.0)
        assert (job.env, job.queue_ttl_s) == ({"A": "b=c", "E": "", "OURS": "here"}, 9.0)
        assert job.limits == Limits(memory_bytes=64 << 20, output_bytes=1024, file_bytes=7, cpu_s=0.5, files=3)
        for wrong in ("processes=1.5", "processes=", "memory_bytes=-1", "memory_bytes=0K", "cpu_s=soon", "files=1", "no=1"):
            with pytest.raises(RunnerdError, match=f"--limit {wrong}"):
                read_job(str(program), [], plugins=PLUGINS, limits=["files=2", wrong])

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
