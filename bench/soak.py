"""`python -m bench.soak`: 100 000 jobs with eight submitters, and what is left over after them."""

import argparse
import asyncio
import sys
import time
from dataclasses import asdict
from itertools import count

from nats.aio.client import Client
from rich.console import Console

from . import daemon, jobs
from .jobs import HELLO, Answers
from .leftovers import Leftovers

CONCURRENCY = 8
SETTLE_S = 3.0
WARM_UP_S = 10.0
console = Console()


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
        before = Leftovers.count(runnerd.pid, runnerd.state)
        await work(client, total, answers)
        await asyncio.sleep(SETTLE_S)
        after = Leftovers.count(runnerd.pid, runnerd.state)
    for name, value in asdict(before).items():
        console.print(f"{name:18} {value:>10} before {getattr(after, name):>10} after")
    console.print(dict(answers.counts), *answers.examples)
    return not after.grown(before) and not answers.wrong


def main() -> int:
    """Exit code 0 where nothing was wrong and nothing is left."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000)
    return 0 if asyncio.run(soak(parser.parse_args().jobs)) else 1


if __name__ == "__main__":
    sys.exit(main())
