"""Far more requests than there are sandboxes: what becomes of them, of the daemon's memory and of the jobs after them."""

import asyncio
import time
from collections import Counter

import msgspec
from nats.aio.msg import Msg

from . import daemon, jobs, machine
from .jobs import HELLO, SUBJECT, Answers
from .measures import Size
from .paced import bare, interleaved, of_jobs
from .samples import Samples, p50

FLUSH_EVERY = 1000
QUIET_S = 10.0


async def backlog(samples: Samples, size: Size) -> None:
    """Publish all requests as fast as the server takes them. Each has to be answered: by a result, or by a refusal."""
    async with daemon.serve() as (runnerd, client):
        answers = Answers()
        for _ in range(50):
            await jobs.ask(client, "py", jobs.body(HELLO), answers)
        rss_before = rss_most = machine.rss_bytes(runnerd.pid)
        counts: Counter[str] = Counter()
        last = time.monotonic()

        async def answered(message: Msg) -> None:
            nonlocal last
            last = time.monotonic()
            counts[_kind(message)] += 1

        inbox = client.new_inbox()
        subscription = await client.subscribe(inbox, cb=answered, pending_msgs_limit=size.backlog * 2)
        body = jobs.body(HELLO)
        for number in range(1, size.backlog + 1):
            await client.publish(f"{SUBJECT}.py", body, reply=inbox)
            if number % FLUSH_EVERY == 0:
                await client.flush(60)
                rss_most = max(rss_most, machine.rss_bytes(runnerd.pid))
        last = time.monotonic()
        while counts.total() < size.backlog and time.monotonic() - last < QUIET_S:
            await asyncio.sleep(0.05)
            rss_most = max(rss_most, machine.rss_bytes(runnerd.pid))
        await subscription.unsubscribe()
        samples.result("backlog_rss_growth_mb", (rss_most - rss_before) / 1e6)
        samples.notes["backlog"] = {"requests": size.backlog, "answers": dict(counts), "unanswered": size.backlog - counts.total()}
        plan = {"bare_python_after_backlog_ms": (bare, 1), "after_backlog_ms": (of_jobs(client, "py", HELLO, answers), 4)}
        await interleaved(samples, plan, max(2, size.rounds // 5))
        ratio = p50(samples.raw["after_backlog_ms"]) / p50(samples.raw["bare_python_after_backlog_ms"])
        samples.result("after_backlog_p50_ratio", ratio)


def _kind(message: Msg) -> str:
    headers = message.headers or {}
    if headers.get("Status") == "503":
        return "no responders"
    if code := headers.get("Nats-Service-Error-Code"):
        return f"refused {code}"
    try:
        return str(msgspec.json.decode(message.data).get("status"))
    except (msgspec.DecodeError, AttributeError):
        return "not a result"
