"""Jobs as a submitter sends them, and whether their results are right."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import nats.errors
from nats.aio.client import Client

SUBJECT = "rd.v1.run.bench"
HELLO = {"code": 'print("hi")'}
PACE_S = 0.015


@dataclass
class Answers:
    """How requests were answered. `right` is status `ok` and the output that was wanted."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    level: str = ""
    warm: int = 0

    @property
    def wrong(self) -> int:
        return self.counts.total() - self.counts["right"]

    def note(self, result: dict[str, Any], want: str) -> None:
        kind = "right" if result.get("status") == "ok" and result.get("stdout") == want else str(result.get("status", "no status"))
        if kind == "ok":
            kind = "other output"
        if kind != "right" and len(self.examples) < 5:
            self.examples.append(str(result)[:600])
        sandbox = result.get("sandbox") or {}
        self.level = sandbox.get("level", self.level)
        self.warm += bool(sandbox.get("warm"))
        self.counts[kind] += 1


def body(job: Mapping[str, object]) -> bytes:
    """The job as JSON."""
    return msgspec.json.encode(job)


async def ask(client: Client, lang: str, job: bytes, answers: Answers, want: str = "hi\n") -> tuple[float, dict[str, Any]]:
    """Submit one job and wait for its result. Milliseconds and the result, empty where none came."""
    begin = time.perf_counter()
    try:
        message = await client.request(f"{SUBJECT}.{lang}", job, timeout=120)
    except nats.errors.NoRespondersError:
        answers.counts["no responders"] += 1
        return (time.perf_counter() - begin) * 1000, {}
    elapsed = (time.perf_counter() - begin) * 1000
    try:
        result: dict[str, Any] = msgspec.json.decode(message.data)
    except msgspec.DecodeError:
        answers.counts[f"not a result: {message.data[:80]!r} {message.headers}"] += 1
        return elapsed, {}
    answers.note(result, want)
    return elapsed, result


async def first(client: Client, lang: str, job: bytes, timeout_s: float = 120) -> dict[str, Any]:
    """Submit until somebody takes the job; then the daemon is up. Raises RuntimeError where its result is not `ok`."""
    deadline = time.monotonic() + timeout_s
    while True:
        answers = Answers()
        _, result = await ask(client, lang, job, answers)
        if result.get("status") == "ok":
            return result
        if result or time.monotonic() > deadline:
            raise RuntimeError(f"no job of {lang} gets through: {dict(answers.counts)} {answers.examples}")
        await asyncio.sleep(0.05)


async def closed_loop(client: Client, lang: str, job: bytes, answers: Answers, *, concurrency: int, seconds: float) -> tuple[int, float]:
    """As many submitters as `concurrency`, each with one job at a time, for so long. How many right results, and the time it took."""
    begin = time.perf_counter()
    before = answers.counts["right"]

    async def submitter() -> None:
        while time.perf_counter() - begin < seconds:
            await ask(client, lang, job, answers)

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(submitter())
    return answers.counts["right"] - before, time.perf_counter() - begin
