"""`python -m bench`: measure all, print ratios, write them to bench/out/latest.json. `--quick` only shows that it runs."""

import argparse
import asyncio
import os
import sys
import time

from rich.console import Console
from rich.table import Table

from . import bus, machine, measures, stores
from .backlog import backlog
from .bus_rabbitmq import rabbitmq
from .measures import FULL, QUICK, Measure
from .pods import pods
from .samples import Samples

MEASURES: dict[str, Measure] = {
    "latency": measures.latency_and_throughput,
    "data": measures.data_profile,
    "on-demand": measures.on_demand,
    "other": measures.other_command,
    "overshoot": measures.overshoot,
    "memory": measures.slot_memory,
    "backlog": backlog,
    "state": stores.state,
    "transfer": stores.transfer,
    "jetstream": bus.jetstream,
    "rabbitmq": rabbitmq,
    "bus-cost": bus.cost,
    "streaming": bus.streaming,
    "pods": pods,
}
NEEDS_CLUSTER = {"pods"}
"""Measures that are left out where KUBECONFIG names no cluster, unless they are asked for."""
TARGETS = {
    "warm_python_nats_p50_ratio": ("<=", 0.35),
    "warm_python_nats_p99_ratio": ("<=", 1.0),
    "warm_python_nats_throughput_ratio": (">=", 3.0),
    "data_python_nats_p50_ratio": ("<=", 0.5),
    "on_demand_python_nats_p50_ratio": ("<=", 0.7),
    "other_command_over_its_cold_start_ms": ("<=", 5.0),
    "daemon_cpu_ms_per_job": ("<=", 1.0),
    "idle_daemon_rss_mb": ("<=", 80.0),
    "warm_python_slot_uss_mb": ("<=", 4.0),
    "timeout_overshoot_max_ms": ("<=", 50.0),
    "state_1mb_disk_over_without_ms": ("<=", 15.0),
    "state_1mb_changed_disk_over_without_ms": ("<=", 15.0),
    "state_1mb_redis_over_without_ms": ("<=", 15.0),
    "state_1mb_changed_redis_over_without_ms": ("<=", 15.0),
    "upload_100mb_share_of_client": (">=", 0.5),
    "download_100mb_share_of_client": (">=", 0.5),
    "jetstream_throughput_ratio": (">=", 0.7),
    "jetstream_p50_ratio": ("<=", 1.5),
    "rabbitmq_throughput_ratio": (">=", 0.7),
    "bus_cost_ratio": ("<=", 0.25),
    "streaming_first_byte_ms": ("<=", 1.0),
    "pod_job_p50_ratio": ("<=", 1.5),
    "refill_p50_ratio": ("<=", 1.2),
    "pod_throughput_ratio": (">=", 0.9),
    "pod_tenant_throughput_ratio": (">=", 0.5),
    "api_calls_per_job": ("<=", 2.2),
}
"""What runnerd is meant to reach on two shared cores. Shown beside what was measured; missing one is no failure."""
OPTIONAL = {
    "rabbitmq_throughput_ratio",
    "data_python_nats_p50_ratio",
    "warm_python_nats_throughput_ratio",
    "pod_job_p50_ratio",
    "refill_p50_ratio",
    "pod_throughput_ratio",
    "pod_tenant_throughput_ratio",
    "api_calls_per_job",
}
"""Without the data packages, bubblewrap or a cluster, these can't be measured."""

console = Console(soft_wrap=True)


def _possible() -> list[str]:
    """All measures that can be taken here."""
    return [name for name in MEASURES if name not in NEEDS_CLUSTER or os.environ.get("KUBECONFIG")]


async def measure(names: list[str], *, quick: bool) -> Samples:
    """Take the measures, one after the other."""
    samples = Samples()
    for name in names:
        console.print(f"[dim]{time.strftime('%H:%M:%S')}[/] {name}: {(MEASURES[name].__doc__ or '').splitlines()[0]}")
        try:
            await MEASURES[name](samples, QUICK if quick else FULL)
        except RuntimeError as error:  # the others can still be measured
            samples.notes[f"{name}: not right"] = str(error)
    return samples


def show(samples: Samples) -> None:
    """The results beside their targets."""
    table = Table(title=f"runnerd, level {samples.notes.get('level', 'not measured')}, {machine.describe()['cores']} cores")
    table.add_column("measure")
    table.add_column("measured", justify="right")
    table.add_column("target", justify="right")
    table.add_column("")
    for name, value in samples.results.items():
        relation, target = TARGETS.get(name, ("", 0.0))
        met = value <= target if relation == "<=" else value >= target
        verdict = ("yes" if met else "[bold]no[/]") if relation else ""
        table.add_row(name, f"{value:.3f}", f"{relation} {target:g}" if relation else "", verdict)
    console.print(table)
    for name, note in samples.notes.items():
        console.print(f"{name}: {note}")


def main() -> int:
    """Exit code 0 where everything could be measured and every answer was right."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few samples of each, to see that it runs; the numbers mean nothing")
    parser.add_argument("only", nargs="*", metavar="MEASURE", help=f"which of {', '.join(MEASURES)}; all where none is named")
    options = parser.parse_args()
    if unknown := set(options.only) - MEASURES.keys():
        parser.error(f"no such measure: {', '.join(sorted(unknown))}")
    samples = asyncio.run(measure(options.only or _possible(), quick=options.quick))
    path = samples.write()
    show(samples)
    console.print(f"written to {path}")
    missing = set() if options.only else TARGETS.keys() - OPTIONAL - samples.results.keys()
    wrong = [name for name in samples.notes if name.endswith("not right")]
    for name in (*sorted(missing), *wrong):
        console.print(f"[bold]failed[/]: {name}")
    return 1 if missing or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
