"""What is measured, one function each. Every one starts the daemon that it needs, and takes its baseline in the same minutes."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from nats.aio.client import Client

from . import baselines, daemon, jobs, machine
from .jobs import HELLO, Answers
from .paced import bare, interleaved, of_jobs
from .samples import Samples, p50, percentile

IMPORTS = "import numpy, pandas, matplotlib.pyplot"
DATA = {"code": f'{IMPORTS}\nprint("hi")'}


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    rounds: int
    """Of paced latency; each is some jobs and their baselines."""
    seconds: float
    """Of throughput, per turn."""
    turns: int
    backlog: int
    repeats: int
    """Of what is slow or steady."""
    bus_jobs: int
    """Jobs of a backlog on the bus, per turn."""
    bus_stores: tuple[str, ...]
    """Where the records of durable jobs are."""


FULL = Size(rounds=250, seconds=2.0, turns=6, backlog=100_000, repeats=20, bus_jobs=1000, bus_stores=("disk", "memory", "jetstream"))
QUICK = Size(rounds=5, seconds=0.3, turns=1, backlog=500, repeats=2, bus_jobs=60, bus_stores=("disk",))

Measure = Callable[[Samples, Size], Coroutine[Any, Any, None]]


async def latency_and_throughput(samples: Samples, size: Size) -> None:
    """Warm Python over NATS as it comes: paced, then with eight submitters; and what the daemon itself spends on it."""
    async with daemon.serve() as (runnerd, client), baselines.echo(runnerd.url):
        await asyncio.sleep(1)
        samples.result("idle_daemon_rss_mb", machine.rss_bytes(runnerd.pid) / 1e6)
        answers = Answers()
        for _ in range(20):
            await jobs.ask(client, "py", jobs.body(HELLO), answers)
        cpu_before, count_before = machine.cpu_s(runnerd.pid), answers.counts.total()
        plan = {
            "bare_python_ms": (bare, 2),
            "warm_python_nats_ms": (of_jobs(client, "py", HELLO, answers), 8),
            "nats_round_trip_ms": (lambda: baselines.round_trip(client), 1),
        }
        await interleaved(samples, plan, size.rounds)
        paced_cpu_ms = (machine.cpu_s(runnerd.pid) - cpu_before) * 1000 / (answers.counts.total() - count_before)
        base = p50(samples.raw["bare_python_ms"])
        warm = samples.raw["warm_python_nats_ms"]
        samples.result("warm_python_nats_p50_ratio", p50(warm) / base)
        samples.result("warm_python_nats_p99_ratio", percentile(warm, 99) / base)
        samples.result("nats_round_trip_p50_ratio", p50(samples.raw["nats_round_trip_ms"]) / base)
        samples.result("paced_daemon_cpu_ms_per_job", paced_cpu_ms)
        samples.notes["level"] = answers.level
        samples.notes["warm_share"] = round(answers.warm / max(1, answers.counts.total()), 4)
        await _throughput(samples, size, runnerd, client)
        _check(samples, "latency", answers)
    for _ in range(max(1, size.repeats // 4)):
        for fork_ms in await baselines.forks():
            samples.add("fork_ms", fork_ms)
    samples.result("fork_p50_ratio", p50(samples.raw["fork_ms"]) / base)


async def _throughput(samples: Samples, size: Size, runnerd: daemon.Daemon, client: Client) -> None:
    answers = Answers()
    wrapped = done = 0
    wrapped_s = done_s = cpu_s = 0.0
    for _ in range(size.turns):
        if baselines.have_bwrap():
            count, seconds = await _starts(size.seconds)
            wrapped, wrapped_s = wrapped + count, wrapped_s + seconds
            samples.add("bubblewrap_per_s", count / seconds)
        before = machine.cpu_s(runnerd.pid)
        count, seconds = await jobs.closed_loop(client, "py", jobs.body(HELLO), answers, concurrency=8, seconds=size.seconds)
        cpu_s += machine.cpu_s(runnerd.pid) - before
        done, done_s = done + count, done_s + seconds
        samples.add("warm_python_nats_per_s", count / seconds)
    samples.result("warm_python_nats_per_s", done / done_s)
    samples.result("daemon_cpu_ms_per_job", cpu_s * 1000 / max(1, answers.counts.total()))
    if wrapped:
        samples.result("warm_python_nats_throughput_ratio", (done / done_s) / (wrapped / wrapped_s))
    _check(samples, "throughput", answers)


async def _starts(seconds: float) -> tuple[int, float]:
    """The snippet under bubblewrap, eight at once, for so long."""
    begin = time.perf_counter()
    count = 0

    async def starter() -> None:
        nonlocal count
        while time.perf_counter() - begin < seconds:
            await baselines.start(baselines.WRAPPED)
            count += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(starter())
    return count, time.perf_counter() - begin


async def data_profile(samples: Samples, size: Size) -> None:
    """Warm Python with numpy, pandas and pyplot imported, against a bare start and against importing them."""
    if not await _imports(samples, size):
        samples.notes["data_profile"] = "left out: python3-numpy, python3-pandas or python3-matplotlib is missing"
        return
    async with daemon.serve("local.preload=data") as (_, client):
        answers = Answers()
        plan = {"bare_python_beside_data_ms": (bare, 1), "data_python_nats_ms": (of_jobs(client, "py", DATA, answers), 3)}
        await interleaved(samples, plan, max(2, size.rounds // 5), 0.03)
        samples.result(
            "data_python_nats_p50_ratio", p50(samples.raw["data_python_nats_ms"]) / p50(samples.raw["bare_python_beside_data_ms"])
        )
        _check(samples, "data profile", answers)


async def _imports(samples: Samples, size: Size) -> bool:
    argv = (baselines.PY, "-c", f'{IMPORTS}\nprint("hi")')
    try:
        for _ in range(max(1, size.repeats // 6)):
            samples.add("bare_data_imports_ms", await baselines.start(argv))
    except RuntimeError:
        return False
    return True


async def on_demand(samples: Samples, size: Size) -> None:
    """Python with no sandbox kept warm."""
    async with daemon.serve("languages.py.warm=0") as (_, client):
        answers = Answers()
        plan = {"bare_python_beside_on_demand_ms": (bare, 1), "on_demand_python_nats_ms": (of_jobs(client, "py", HELLO, answers), 3)}
        await interleaved(samples, plan, max(2, size.rounds // 5), 0.03)
        base = p50(samples.raw["bare_python_beside_on_demand_ms"])
        samples.result("on_demand_python_nats_p50_ratio", p50(samples.raw["on_demand_python_nats_ms"]) / base)
        _check(samples, "on demand", answers)


async def other_command(samples: Samples, size: Size) -> None:
    """A program that is not warm, in a sandbox that is: Bash over its own cold start."""
    async with daemon.serve("languages.bash.warm=2") as (_, client):
        answers = Answers()
        cold = ("/bin/bash", "-c", "echo hi")
        plan = {
            "bare_bash_ms": (lambda: baselines.start(cold), 1),
            "bash_nats_ms": (of_jobs(client, "bash", {"code": "echo hi\n"}, answers), 2),
        }
        await jobs.first(client, "bash", jobs.body({"code": "echo hi\n"}))
        await interleaved(samples, plan, max(2, size.rounds // 3), 0.03)
        samples.result("other_command_over_its_cold_start_ms", p50(samples.raw["bash_nats_ms"]) - p50(samples.raw["bare_bash_ms"]))
        _check(samples, "other command", answers)


async def overshoot(samples: Samples, size: Size) -> None:
    """How long after its deadline a job that ignores signals has its result."""
    wall_s = 0.3
    code = "import signal, time\nfor s in (2, 15): signal.signal(s, signal.SIG_IGN)\ntime.sleep(60)\n"
    async with daemon.serve() as (_, client):
        answers = Answers()
        encoded = jobs.body({"code": code, "limits": {"wall_s": wall_s}})
        for _ in range(size.repeats):
            elapsed, result = await jobs.ask(client, "py", encoded, answers)
            if result.get("status") == "timeout":
                samples.add("timeout_overshoot_ms", elapsed - wall_s * 1000)
        values = samples.raw.get("timeout_overshoot_ms", [])
        if len(values) < size.repeats:
            samples.notes["overshoot: not right"] = [dict(answers.counts), answers.examples]
        samples.result("timeout_overshoot_p50_ms", p50(values) if values else -1)
        samples.result("timeout_overshoot_max_ms", max(values) if values else -1)


async def slot_memory(samples: Samples, _size: Size) -> None:
    """Memory of one more warm Python sandbox, from two daemons that differ in eight."""
    few, many = 2, 10
    own: dict[int, tuple[int, int]] = {}
    for count in (few, many):
        async with daemon.serve(f"languages.py.warm={count}", "languages.js.warm=0") as (runnerd, _):
            await _settled(runnerd)
            readings = [machine.own_bytes(pid) for pid in runnerd.sandboxes()]
            own[count] = sum(uss for uss, _ in readings), sum(pss for _, pss in readings)
    samples.result("warm_python_slot_uss_mb", (own[many][0] - own[few][0]) / (many - few) / 1e6)
    samples.result("warm_python_slot_pss_mb", (own[many][1] - own[few][1]) / (many - few) / 1e6)


async def _settled(runnerd: daemon.Daemon, quiet_s: float = 1.0, most_s: float = 30.0) -> None:
    """Wait until no process comes or goes for a while."""
    begin = since = time.monotonic()
    before = sorted(runnerd.sandboxes())
    while time.monotonic() - since < quiet_s and time.monotonic() - begin < most_s:
        await asyncio.sleep(0.1)
        if (now := sorted(runnerd.sandboxes())) != before:
            before, since = now, time.monotonic()


def _check(samples: Samples, name: str, answers: Answers) -> None:
    """Wrong answers make a measure worthless: they are noted, and make the bench fail."""
    if answers.wrong:
        samples.notes[f"{name}: not right"] = [dict(answers.counts), answers.examples]
