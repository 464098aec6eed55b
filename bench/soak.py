"""`python -m bench.soak`: 100 000 jobs with eight submitters, and what is left over after them."""

import argparse
import asyncio
import sys
import time
from dataclasses import asdict, dataclass
from itertools import count

from nats.aio.client import Client
from rich.console import Console

from . import daemon, jobs, machine
from .jobs import HELLO, Answers

CONCURRENCY = 8
SETTLE_S = 3.0
WARM_UP_S = 10.0
console = Console()


@dataclass(frozen=True)
class Left:
    """What could leak, counted."""

    daemon_files: int
    daemon_rss_mb: float
    processes: int
    processes_rss_mb: float
    mounts: int
    cgroups: int
    state_files: int

    @classmethod
    def count(cls, runnerd: daemon.Daemon) -> "Left":
        sandboxes = runnerd.sandboxes()
        return cls(
            daemon_files=machine.open_files(runnerd.pid),
            daemon_rss_mb=round(machine.rss_bytes(runnerd.pid) / 1e6, 1),
            processes=len(sandboxes),
            processes_rss_mb=round(sum(map(machine.rss_bytes, sandboxes)) / 1e6, 1),
            mounts=machine.mounts(),
            cgroups=machine.cgroups(),
            state_files=sum(1 for path in runnerd.state.rglob("*") if path.is_file()),
        )


async def work(client: Client, total: int, answers: Answers) -> None:
    """All jobs, eight at a time, with a line of progress now and then."""
    numbers = count()
    begin = shown = time.monotonic()
    body = jobs.body(HELLO)

    async def submitter() -> None:
        nonlocal shown
        while (number := next(numbers)) < total:
            await jobs.ask(client, "py", body, answers)
            if time.monotonic() - shown > 10:
                shown = time.monotonic()
                rate = number / (shown - begin)
                console.print(f"{number:7d} of {total}, {rate:.0f}/s, {answers.wrong} not right, {(total - number) / rate:.0f} s to go")

    async with asyncio.TaskGroup() as group:
        for _ in range(CONCURRENCY):
            group.create_task(submitter())
    console.print(f"{total} jobs in {time.monotonic() - begin:.0f} s")


async def soak(total: int) -> bool:
    """Whether every job was right and nothing but records is left over."""
    async with daemon.serve() as (runnerd, client):
        answers = Answers()
        # until every sandbox that eight submitters can need has been there once
        await jobs.closed_loop(client, "py", jobs.body(HELLO), answers, concurrency=2 * CONCURRENCY, seconds=WARM_UP_S)
        await asyncio.sleep(SETTLE_S)
        before = Left.count(runnerd)
        await work(client, total, answers)
        await asyncio.sleep(SETTLE_S)
        after = Left.count(runnerd)
    for name, value in asdict(before).items():
        console.print(f"{name:18} {value:>10} before {getattr(after, name):>10} after")
    console.print(dict(answers.counts), *answers.examples)
    same = all(getattr(before, name) >= getattr(after, name) for name in ("daemon_files", "processes", "mounts", "cgroups"))
    return same and not answers.wrong


def main() -> int:
    """Exit code 0 where nothing was wrong and nothing is left."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000)
    return 0 if asyncio.run(soak(parser.parse_args().jobs)) else 1


if __name__ == "__main__":
    sys.exit(main())
