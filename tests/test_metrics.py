"""What the daemon counts: read from a real one over HTTP, by Prometheus' own parser; and that no caller makes labels."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import nats
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fake_executor import wait_until
from hosting import hosted
from http_services import HttpServices, serving
from runnerd import Job, Result, StoreError, Usage
from runnerd.config import load_config
from runnerd.daemon import Daemon, open_daemon
from runnerd.metrics import BOUNDS_S, MOST_EVENTS, Meter, exposition
from runnerd.pace import Pace
from runnerd.plugins import find_plugins
from stores import store

KEY = "sk-0123456789abcdef"
LABELS = ["version", "executor", "level", "store", "kind", "operation", "language", "status", "ingress", "reason", "event", "le"]
"""All that there are, in the order in which tests name their values."""


@asynccontextmanager
async def running(directory: Path, *flags: str) -> AsyncIterator[tuple[Daemon, httpx.AsyncClient]]:
    plugins = find_plugins()
    given = [
        f"state_dir={directory}",
        "ingress.nats.listen=127.0.0.1:0",
        "ingress.http.port=0",
        f"ingress.http.api_key={KEY}",
        "isolation.minimum=process",
        *flags,
    ]
    settings = load_config(plugins, flags=given, environ={}, directory=directory).settings
    only = msgspec.structs.replace(plugins, languages={code: plugins.languages[code] for code in ("py", "bash")})
    async with hosted(open_daemon(settings, only)) as daemon:
        base = daemon.addresses["http"].split()[0]
        async with httpx.AsyncClient(base_url=base, headers={"x-api-key": KEY}, timeout=60) as client:
            yield daemon, client


def parsed(text: str) -> dict[str, dict[tuple[str, ...], float]]:
    """Values by name and values of labels."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = tuple(sample.labels[name] for name in sorted(sample.labels, key=LABELS.index))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


async def scraped(client: httpx.AsyncClient) -> dict[str, dict[tuple[str, ...], float]]:
    answer = await client.get("/metrics")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return parsed(answer.text)


async def run(client: httpx.AsyncClient, code: str, **fields: Any) -> dict[str, Any]:
    answer = await client.post("/exec", json={"lang": "py", "code": code, **fields})
    body: dict[str, Any] = answer.json()
    return body


async def test_a_real_daemon_is_scraped(tmp_path: Path) -> None:
    async with running(tmp_path) as (daemon, client):
        for code in ("print('hi')", "import time; time.sleep(0.06)", "1 / 0"):
            await run(client, code)
        session = (await run(client, "x = 1"))["session_id"]
        await run(client, "print(x)", session_id=session)
        await run(client, "x", lang='evil"} 1\nfake{a="')
        async with await nats.connect(daemon.addresses["nats"]) as bus:
            for _ in range(2):  # the second answer is the recorded one
                await bus.request("rd.v1.run.acme.bash", b'{"id": "one", "code": "echo hi"}', timeout=60)
            await bus.publish("rd.v1.run.acme.bash", b"nobody waits for the answer")
            await bus.flush()
        await wait_until(lambda: b"refused_no_reply" in daemon.metrics(), "the ingress has counted it")
        assert (await client.get("/files/none", headers={"x-api-key": "wrong"})).status_code == 401
        seen = await scraped(client)
        jobs = seen["runnerd_jobs_total"]
        assert jobs["py", "ok", "http"] >= 3
        assert jobs["py", "failed", "http"] == 1
        assert jobs["bash", "ok", "nats"] == 2
        assert seen["runnerd_job_starts_total"]["bash",] == seen["runnerd_job_run_seconds_count"]["bash",] == 1
        assert {lang for lang, _, _ in jobs} <= {"py", "bash", "other"}
        assert seen["runnerd_job_starts_total"]["py",] == sum(count for (lang, *_), count in jobs.items() if lang == "py")
        assert seen["runnerd_job_run_seconds_count"]["py",] == seen["runnerd_job_queue_seconds_count"]["py",] >= 5
        assert seen["runnerd_job_run_seconds_sum"]["py",] > 0.05
        assert seen["runnerd_job_run_seconds_bucket"]["py", "+Inf"] == seen["runnerd_job_run_seconds_count"]["py",]
        assert seen["runnerd_pool_lease_wait_seconds_count"]["py",] >= 5
        assert seen["runnerd_pool_start_seconds_count"]["py",] >= 5
        assert seen["runnerd_pool_target"]["py",] >= 1
        assert seen["runnerd_pool_failed_starts_total"] == {("py",): 0, ("bash",): 0}
        assert seen["runnerd_isolation_info"] == {("local", daemon.executor.level): 1}
        assert seen["runnerd_slots"][()] - seen["runnerd_slots_free"][()] == seen["runnerd_jobs_running"][()]
        operations = seen["runnerd_store_operations_total"]
        assert operations["kv", "disk", "compare_and_set"] >= 2
        assert not any(seen["runnerd_store_errors_total"].values())
        assert seen["runnerd_sessions_made_total"][()] >= 1
        assert seen["runnerd_sweeper_sessions_expired_total"][()] == 0
        events = seen["runnerd_ingress_events_total"]
        assert events["nats", "refused_no_reply"] == 1
        assert events["http", "status_401"] == 1
        assert seen["process_resident_memory_bytes"][()] > 1 << 20


@pytest.mark.parametrize(("metrics", "with_key", "without"), [("key", 200, 401), ("open", 200, 200), ("off", 404, 404)])
async def test_who_may_read_them(metrics: str, with_key: int, without: int) -> None:
    async with serving(HttpServices(), metrics=metrics) as client:
        assert (await client.get("/metrics")).status_code == with_key
        assert (await client.get("/metrics", headers={"x-api-key": ""})).status_code == without
        bearer = {"x-api-key": "", "Authorization": f"Bearer {KEY}"}
        assert (await client.get("/metrics", headers=bearer)).status_code == with_key


def health(**more: Any) -> dict[str, Any]:
    given = {"version": "1", "refuses": "", "executor": {"name": "e", "level": "l"}, "slots": 1, "free": 1, "running": 0}
    return {**given, "queued": 0, "draining": False, "dropped_events": 0, "pools": {}, **more}


def shown(meter: Meter, paces: Mapping[str, Pace] | None = None) -> dict[str, dict[tuple[str, ...], float]]:
    return parsed(exposition(meter, health(), paces or {}, {}).decode())


async def test_stores_that_fail_are_counted(tmp_path: Path) -> None:
    meter = Meter(["py"])
    async with store("memory").open_kv() as kv, store("memory").open_blobs() as blobs:
        counted, counted_blobs = meter.keys(kv, "memory"), meter.blobs(blobs, "memory")
        assert counted.value_bytes == kv.value_bytes
        await counted.put("a", b"x", ttl_s=5)
        assert await counted.get("a") is not None
        with pytest.raises(StoreError):
            await counted.put("no key", b"x")
        with pytest.raises(KeyError):
            async for _ in counted_blobs.get("b"):
                pass
    seen = shown(meter)
    assert seen["runnerd_store_operations_total"] == {
        ("kv", "memory", "put"): 2,
        ("kv", "memory", "get"): 1,
        ("blob", "memory", "get"): 1,
    }
    assert seen["runnerd_store_errors_total"] == {("kv", "memory", "put"): 1, ("kv", "memory", "get"): 0, ("blob", "memory", "get"): 1}


def test_nobody_makes_labels() -> None:
    meter = Meter(["py"])
    for number in range(5 * MOST_EVENTS):
        meter.ended(Result(id="j", tenant=f"t{number}", lang=f"l{number}", status="rejected", reason=f"r{number}"), "http")
        meter.happened("http", f"e{number}")
    seen = shown(meter)
    assert seen["runnerd_jobs_total"] == {("other", "rejected", "http"): 5 * MOST_EVENTS}
    assert len(seen["runnerd_ingress_events_total"]) == MOST_EVENTS + 1
    assert sum(seen["runnerd_ingress_events_total"].values()) == 5 * MOST_EVENTS


def test_times_fall_into_their_parts() -> None:
    meter, pace = Meter(["py"]), Pace()
    times_ms = (0.5, 1.0, 30.0, 1e6)
    for ran_ms in times_ms:
        meter.started(Result(id="j", lang="py", status="ok", starts=1, usage=Usage(ran_ms=ran_ms)))
        pace.waited(ran_ms / 1000)
    seen = shown(meter, {"py": pace})
    buckets = [seen["runnerd_job_run_seconds_bucket"]["py", bound] for bound in (*map(str, BOUNDS_S), "+Inf")]
    assert (buckets[0], buckets[5], buckets[-2], buckets[-1]) == (2, 3, 3, 4)
    assert seen["runnerd_job_run_seconds_sum"]["py",] == pytest.approx(sum(times_ms) / 1000)
    assert seen["runnerd_pool_lease_wait_seconds_sum"]["py",] == pytest.approx(sum(times_ms) / 1000)


async def test_what_is_given_back_is_counted(tmp_path: Path) -> None:
    async with running(tmp_path, "ingress.nats.enabled=no", "pool.enabled=no") as (daemon, _):
        await daemon.drain()
        with pytest.raises(Exception, match="stopping"):
            async for _event in daemon.door("http").submit(Job(lang="py", code="1")):
                pass
        assert parsed(daemon.metrics().decode())["runnerd_jobs_given_back_total"] == {("http", "interrupted"): 1}
