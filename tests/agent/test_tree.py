"""Removing directories that somebody tried to make unremovable."""

import os
import stat
from pathlib import Path

import pytest

from forked import in_child
from runnerd.agent import tree

PLAIN_USER = 65_532


def _deep(depth: int) -> None:
    for _ in range(depth):
        os.mkdir("d" * 100)
        os.chdir("d" * 100)
    Path("file").touch()


def _as_ordinary_user() -> None:
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(PLAIN_USER, PLAIN_USER, PLAIN_USER)
        os.setresuid(PLAIN_USER, PLAIN_USER, PLAIN_USER)


@pytest.fixture
def place(tmp_path):
    for path in (tmp_path, *tmp_path.parents):
        if path.is_relative_to("/tmp") and path != Path("/tmp"):
            path.chmod(path.stat().st_mode | 0o011)
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(0o777)
    return place


def test_deeper_than_any_recursion_and_any_path(place):
    def make_and_remove():
        _as_ordinary_user()
        os.chdir(place)
        _deep(3000)
        os.chdir("/")
        before = len(os.listdir("/proc/self/fd"))
        tree.empty(str(place))
        return os.listdir(place), len(os.listdir("/proc/self/fd")) - before

    assert in_child(make_and_remove) == ([], 0)


def test_whatever_the_modes(place):
    def make_and_remove():
        _as_ordinary_user()
        for name in ("a", "a/b", "a/b/c", "empty"):
            (place / name).mkdir()
        (place / "a/b/file").write_text("x")
        (place / "a/b/file").chmod(0)
        for name in ("a/b/c", "a/b", "a", "empty"):
            (place / name).chmod(0)
        tree.empty(str(place))
        return os.listdir(place)

    assert in_child(make_and_remove) == []


def test_links_are_not_followed(place, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("kept")
    outside.chmod(0o755)
    for name, target in (("directory", outside), ("file", outside / "file"), ("loop", "loop"), ("up", "../.."), ("gone", "nothing")):
        (place / name).symlink_to(target)
    (place / "sub").mkdir()
    (place / "sub/link").symlink_to(outside)
    os.link(outside / "file", place / "hard")
    tree.remove(str(place))
    assert not place.exists()
    assert (outside / "file").read_text() == "kept"
    assert stat.S_IMODE(outside.stat().st_mode) == 0o755


def test_things_that_are_no_files_and_names_that_are_no_text(place):
    os.mkfifo(place / "fifo")
    for name in (b"new\nline", b"\xff\xfe", b"-rf", b"n" * 255):
        os.mkdir(os.path.join(os.fsencode(place), name))
        open(os.path.join(os.fsencode(place), name, name), "w").close()
    tree.remove(str(place))
    assert not place.exists()


def test_many_directories_beside_each_other(place):
    for i in range(2000):
        (place / f"{i}" / "in").mkdir(parents=True)
    tree.remove(str(place))
    assert not place.exists()


def test_where_there_is_nothing(tmp_path):
    tree.remove(str(tmp_path / "nothing"))


def test_a_link_in_the_place_of_the_directory(place, tmp_path):
    (tmp_path / "link").symlink_to(place)
    (place / "file").touch()
    with pytest.raises(NotADirectoryError):
        tree.empty(str(tmp_path / "link"))
    with pytest.raises(NotADirectoryError, match="a link stands"):
        tree.remove(str(tmp_path / "link"))
    assert (place / "file").exists()
