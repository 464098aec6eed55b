"""Saving the files of a program that wants them elsewhere."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runnerd import File, RunnerdError
from runnerd.commands.outfiles import save_files


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
