"""Which pages a child made its own, and copying them ahead."""

from __future__ import annotations

import ctypes
import mmap
import os

import pytest

from runnerd.agent import pages

SIZE = mmap.PAGESIZE


def forked(action) -> None:  # type: ignore[no-untyped-def]
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.fixture
def memory() -> mmap.mmap:
    memory = mmap.mmap(-1, 8 * SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:] = b"x" * len(memory)
    return memory


def address_of(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def within(found: pages.Pages[int], start: int) -> list[tuple[int, int]]:
    pairs = zip(found[::2], found[1::2], strict=True)
    return [((address - start) // SIZE, length // SIZE) for address, length in pairs if start <= address < start + 8 * SIZE]


def note(pagemap: pages.PageMap) -> None:
    fd = os.open("/proc/self/pagemap", os.O_RDONLY)
    pagemap.note(fd)
    os.close(fd)


def test_finds_what_a_child_wrote_to(memory: mmap.mmap) -> None:
    pagemap = pages.PageMap()

    def act() -> None:
        for page in (2, 3, 6):
            memory[page * SIZE] = 1
        assert memory[5 * SIZE] == ord("x")  # reading copies nothing
        note(pagemap)

    forked(act)
    assert within(pages.ranges(pagemap.gained()), address_of(memory)) == [(2, 2), (6, 1)]


@pytest.mark.parametrize("nothing_at", [0, 2, 4])
@pytest.mark.parametrize("at_once", [True, False])
def test_copies_pages_ahead(memory: mmap.mmap, monkeypatch: pytest.MonkeyPatch, at_once: bool, nothing_at: int) -> None:
    if not at_once:  # as by a kernel that does not know how
        monkeypatch.setattr(pages.linux, "madvise_all", lambda *_: lambda: -1)
    start = address_of(memory)
    wanted = [start + SIZE, 2 * SIZE, start + 5 * SIZE, SIZE]
    wanted[nothing_at:nothing_at] = [0, SIZE]  # nothing is there: not copied, no error
    copy = pages.Copy(pages.array.array("Q", wanted))
    pagemap = pages.PageMap()

    def act() -> None:
        copy()
        note(pagemap)

    forked(act)
    assert within(pages.ranges(pagemap.gained()), start) == [(1, 2), (5, 1)]
    assert memory[:] == b"x" * len(memory)


def test_more_ranges_than_one_call_takes() -> None:
    count = pages.linux.IOV_MAX + 10
    memory = mmap.mmap(-1, 2 * count * SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:] = b"x" * len(memory)
    start = address_of(memory)
    copy = pages.Copy(pages.array.array("Q", [number for i in range(count) for number in (start + 2 * i * SIZE, SIZE)]))
    pagemap = pages.PageMap()

    def act() -> None:
        copy()
        note(pagemap)

    forked(act)
    assert len([address for address in pagemap.gained() if start <= address < start + len(memory)]) == count


def test_nothing_to_copy() -> None:
    pages.Copy(pages.NONE)()
