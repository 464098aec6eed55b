"""The last words of a child that collects files: heard, though its end is told first."""

from __future__ import annotations

from typing import Any

import pytest

from runnerd.agent.ends import Ends
from runnerd.agent.frames import Header, pack
from runnerd.agent.gathering import Gathering
from runnerd.agent.loop import Loop

LAST = [pack({"type": "file", "name": "a"}, b"end"), pack({"type": "collected"})]


class Bench:
    """A gathering, and the ends of its child, whose loop is not run: nothing is read but what is asked for."""

    def __init__(self) -> None:
        self.emitted: list[tuple[Header, bytes]] = []
        self.ends = Ends(Loop(), self)
        self.gathering = Gathering(Loop(), self, self, 10.0, lambda: None)  # type: ignore[arg-type]
        self.gathering.start({})
        self.gathering.take("file", {"type": "file", "name": "a", "size": 6, "more": True}, b"the")

    def end(self, last: list[bytes], paused: bool) -> None:
        """The child says this and ends; then that is told."""
        self.ends.pause(paused)
        self.ends._theirs.sendall(b"".join(last))
        self.ends.close_theirs()
        self.gathering.end(failed=True)
        self.ends.close()

    # What it is told

    def hear_out(self) -> None:
        self.ends.hear_out()

    def said(self, _ends: Ends, header: Header, body: bytes) -> None:
        if self.gathering.take(header["type"], header, body):
            self.gathering.end()

    def emit(self, header: Header, body: bytes = b"") -> None:
        self.emitted.append((header, body))

    def __getattr__(self, _name: str) -> Any:
        return lambda *_: None


@pytest.mark.parametrize("paused", [False, True])
def test_all_of_them(paused: bool) -> None:
    bench = Bench()
    bench.end(LAST, paused)
    assert [(header["type"], body) for header, body in bench.emitted] == [("file", b"the"), ("file", b"end")]
    assert not bench.gathering.failed


@pytest.mark.parametrize("last", [[], LAST[:1]])
def test_what_does_not_come_is_said(last: list[bytes]) -> None:
    bench = Bench()
    bench.end(last, paused=False)
    kinds = [(header["type"], header.get("cut", False)) for header, _ in bench.emitted[1 + len(last) :]]
    assert kinds == ([("skipped", False)] if last else [("file", True), ("skipped", False)])
    assert bench.gathering.failed
