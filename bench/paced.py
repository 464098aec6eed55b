"""Latency at concurrency 1, one every 15 ms, with the bare baselines in between, so that noise hits all alike."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from nats.aio.client import Client

from . import baselines, jobs
from .jobs import PACE_S, Answers
from .samples import Samples

Measure = Callable[[], Awaitable[float]]


async def slots(count: int, pace_s: float = PACE_S) -> AsyncIterator[int]:
    """Numbers, one at every beat; late ones move the following beats instead of bunching them."""
    beat = time.perf_counter()
    for number in range(count):
        yield number
        beat += pace_s
        now = time.perf_counter()
        if beat > now:
            await asyncio.sleep(beat - now)
        else:
            beat = now


async def interleaved(samples: Samples, measured: dict[str, tuple[Measure, int]], rounds: int, pace_s: float = PACE_S) -> None:
    """In every round, take each measure as often as its number says, in turn."""
    plan = [(name, measure) for name, (measure, times) in measured.items() for _ in range(times)]
    async for number in slots(rounds * len(plan), pace_s):
        name, measure = plan[number % len(plan)]
        samples.add(name, await measure())


async def bare() -> float:
    return await baselines.start(baselines.BARE)


def of_jobs(client: Client, lang: str, job: Mapping[str, object], answers: Answers, want: str = "hi\n") -> Measure:
    """A measure: the time of one job from submission to result."""
    encoded = jobs.body(job)

    async def measure() -> float:
        elapsed, _ = await jobs.ask(client, lang, encoded, answers, want)
        return elapsed

    return measure
