"""The agent's loop: what it calls, and for which descriptor."""

import os

from runnerd.agent.loop import Loop


def test_an_event_of_a_closed_descriptor_never_reaches_its_successor() -> None:
    loop = Loop()
    called: list[str] = []
    pipes = [os.pipe() for _ in range(2)]
    readers = [reader for reader, _ in pipes]
    successors: list[tuple[int, int]] = []

    def first_come(fd: int) -> None:
        """Replaces the other descriptor, whose event waits in the same round, by a new one of the same number."""
        other = readers[1 - readers.index(fd)]
        for closed in (fd, other):
            loop.unwatch(closed)
        os.close(other)
        reader, writer = os.pipe()
        successors.append((reader, writer))
        assert reader == other
        loop.watch(reader, lambda _: called.append("successor"))
        loop.call_after(0, lambda: setattr(loop, "stopping", True))

    for fd in readers:
        loop.watch(fd, lambda _, fd=fd: first_come(fd))
    for _, writer in pipes:
        os.write(writer, b"x")
    loop.run()
    assert called == []
    for fd in {*readers, *(writer for _, writer in pipes), *(fd for pair in successors for fd in pair)}:
        os.close(fd)


def test_timers_come_in_order_and_can_be_cancelled() -> None:
    loop = Loop()
    called: list[int] = []
    loop.call_after(0.02, lambda: setattr(loop, "stopping", True))
    loop.call_after(0.01, lambda: called.append(2))
    loop.call_after(0.0, lambda: called.append(1))
    loop.call_after(0.005, lambda: called.append(3)).cancel()
    loop.run()
    assert called == [1, 2]
