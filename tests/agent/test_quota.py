"""What a directory on the host's disk may take."""

import os

import pytest

from runnerd.agent import quota
from runnerd.agent.quota import Quota


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(quota, "EVERY_S", 0.0)
    monkeypatch.setattr(quota, "SHARE", 0)


def test_bytes_wherever_they_lie(tmp_path):
    bound = Quota(str(tmp_path), 1 << 20, 100)
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/small").write_bytes(bytes(1 << 19))
    assert not bound.over()
    (tmp_path / "a/b/large").write_bytes(bytes(1 << 20))
    assert bound.over()


def test_what_lies_outside_does_not_count(tmp_path):
    (tmp_path / "outside").write_bytes(bytes(4 << 20))
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(tmp_path / "outside")
    (inside / "up").symlink_to(tmp_path)
    with (inside / "sparse").open("wb") as sparse:
        sparse.truncate(1 << 30)
    assert not Quota(str(inside), 1 << 20, 100).over()


def test_entries(tmp_path):
    bound = Quota(str(tmp_path), 1 << 30, 10)
    for number in range(10):
        (tmp_path / str(number)).mkdir()
    assert not bound.over()
    (tmp_path / "more").mkdir()
    assert bound.over()


def test_deeper_than_any_path(tmp_path):
    here = os.open(tmp_path, os.O_RDONLY)
    try:
        for _ in range(30):
            os.mkdir("d" * 200, dir_fd=here)
            deeper = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = deeper
    finally:
        os.close(here)
    assert Quota(str(tmp_path), 1 << 30, 100).over()


def test_a_directory_that_is_gone(tmp_path):
    assert not Quota(str(tmp_path / "gone"), 1, 1).over()


def test_counting_takes_its_share_and_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(quota, "EVERY_S", 3600.0)
    bound = Quota(str(tmp_path), 1, 0)
    assert not bound.over()
    (tmp_path / "new").mkdir()
    assert not bound.over(), "it was counted a moment ago"
