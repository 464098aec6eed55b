"""What NATS costs: durable jobs against the least that a worker has to do, real jobs against no bus, output against a bare publish."""

import asyncio
import itertools
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from . import jobs
from .brokers import nats_server
from .jobs import HELLO
from .measures import Size
from .samples import Samples, p50
from .workers import PATIENCE_S, RESULT, SLOTS, Awaited, Side, Worker, compare, timed, worker

NOOP = b'{"code":"noop","lang":"py"}'


class Submitter:
    """Submits durable jobs and awaits their answers."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._numbers = itertools.count()
        self._run = client.new_inbox().rpartition(".")[2]
        self._inbox = client.new_inbox()
        self._answers = Awaited()

    async def listen(self) -> None:
        """Begin to count answers."""
        await self._client.subscribe(self._inbox, cb=self._answered, pending_msgs_limit=0, pending_bytes_limit=0)
        await self._client.flush()

    async def _answered(self, message: Msg) -> None:
        self._answers.came(message.data)

    async def submit(self, subject: str, body: bytes) -> None:
        """One job, with an id of its own."""
        name = f"{self._run}-{next(self._numbers)}"
        await self._client.publish(subject, body, headers={"Nats-Msg-Id": name, "Rd-Reply-To": self._inbox})

    async def answered(self, subject: str, body: bytes) -> None:
        """One job and its answer."""
        self._answers.expect(1)
        await self.submit(subject, body)
        await self._answers.all()

    async def served(self, subject: str, body: bytes, count: int) -> float:
        """So many jobs at once, and their answers; seconds."""
        self._answers.expect(count)
        begin = time.perf_counter()
        for _ in range(count):
            await self.submit(subject, body)
        await self._answers.all()
        return time.perf_counter() - begin

    async def drained(self, subject: str, body: bytes, count: int, taker: Worker) -> float:
        """A backlog, made while its taker sleeps; seconds from its waking to the last answer."""
        self._answers.expect(count)
        taker.pause()
        try:
            for number in range(count):
                await self.submit(subject, body)
                if number % 500 == 499:
                    await self._client.flush(60)
            await self._client.flush(60)
            await asyncio.sleep(0.2)  # until the stream has them
        finally:
            begin = time.perf_counter()
            taker.resume()
        await self._answers.all()
        return time.perf_counter() - begin

    def side(self, name: str, taker: Worker, subject: str, body: bytes) -> Side:
        """Whoever takes what comes on `subject`."""
        return Side(
            name,
            taker,
            once=lambda: timed(lambda: self.answered(subject, body)),
            burst=lambda count: self.drained(subject, body, count, taker),
        )


@asynccontextmanager
async def scratch() -> AsyncIterator[Path]:
    """A directory that goes with the block."""
    directory = Path(tempfile.mkdtemp(prefix="runnerd-bench-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@asynccontextmanager
async def submitting() -> AsyncIterator[tuple[Path, str, Client, Submitter]]:
    """A server of its own, and who submits."""
    async with scratch() as directory, nats_server(directory) as url:
        client = await nats.connect(url, connect_timeout=60)
        try:
            submitter = Submitter(client)
            await submitter.listen()
            yield directory, url, client, submitter
        finally:
            await client.close()


def settings(directory: Path, url: str, *more: str) -> tuple[str, ...]:
    """Of a daemon that takes durable jobs."""
    own = (f"state_dir={directory}/state", f"scheduler.slots={SLOTS}", f"languages.py.warm={SLOTS}")
    return (*own, f"ingress.nats.url={url}", "ingress.nats.jetstream.streams=ensure", *more)


async def jetstream(samples: Samples, size: Size) -> None:
    """Durable jobs that do nothing, with their records on disk, in memory and in JetStream, against a bare worker with the same acks."""
    for store in size.bus_stores:
        name = "jetstream" if store == "disk" else f"jetstream_{store}_store"
        async with submitting() as (directory, url, _, submitter):
            at = (f"store.kv.url={url}",) if store == "jetstream" else ()
            flags = settings(directory, url, f"store.kv.kind={store}", "store.blob.kind=memory", *at)
            async with (
                worker(directory, "noop", "nats", *flags) as daemon,
                worker(directory, "bare_jetstream", url, str(SLOTS), RESULT, "bare") as bare,
                worker(directory, "bare_jetstream", url, "1", RESULT, "loop") as loop,
            ):
                sides = (
                    submitter.side(f"{name}_noop", daemon, "rd.v1.job.bench.std.py", NOOP),
                    submitter.side(f"{name}_bare", bare, "bare.job.py", NOOP),
                    submitter.side(f"{name}_one_at_a_time", loop, "loop.job.py", NOOP),
                )
                await compare(samples, name, *sides, rounds=size.rounds, turns=size.turns, jobs=size.bus_jobs)


async def cost(samples: Samples, size: Size) -> None:
    """Real warm Python jobs: from the stream and from requests, against calling the scheduler in the same daemon."""
    async with submitting() as (directory, url, client, submitter):
        flags = settings(directory, url, "languages.js.warm=0", "languages.py.warm=8", "scheduler.slots=8")
        async with worker(directory, "noop", "nats", "--real", *flags) as daemon:
            count = max(20, size.bus_jobs // 4)
            code = str(HELLO["code"])
            body = jobs.body(HELLO)
            answers = jobs.Answers()
            await daemon.ask(f"direct {count} 8 {code}")
            took = {"direct": 0.0, "stream": 0.0, "request": 0.0}
            for _ in range(size.turns):
                took["direct"] += float(await daemon.ask(f"direct {count} 8 {code}"))
                took["stream"] += await submitter.served("rd.v1.job.bench.std.py", body, count)
                took["request"] += await _requests(client, body, answers, count)
            if answers.wrong:
                samples.notes["bus cost: not right"] = [dict(answers.counts), answers.examples]
            for way, seconds in took.items():
                samples.result(f"real_python_{way}_per_s", size.turns * count / seconds)
            samples.result("bus_cost_ratio", 1 - took["direct"] / took["stream"])
            samples.result("bus_cost_request_ratio", 1 - took["direct"] / took["request"])


async def _requests(client: Client, body: bytes, answers: jobs.Answers, count: int) -> float:
    begin, left = time.perf_counter(), count

    async def submitter() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await jobs.ask(client, "py", body, answers)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(8):
            tasks.create_task(submitter())
    return time.perf_counter() - begin


async def streaming(samples: Samples, size: Size) -> None:
    """The first byte of output of a running job, against a message that its sandbox publishes by itself in the same instant."""
    async with submitting() as (directory, url, client, _):
        flags = settings(directory, url, "store.kv.kind=memory", "store.blob.kind=memory")
        async with worker(directory, "noop", "nats", *flags):
            came: dict[str, float] = {}
            whole = asyncio.Event()

            async def receive(message: Msg) -> None:
                kind = "bare" if message.subject.endswith(".bare") else (message.headers or {}).get("Rd-Kind", "end")
                came.setdefault(kind, time.perf_counter())
                if {"bare", "out", "end"} <= came.keys():
                    whole.set()

            inbox = client.new_inbox()
            await client.subscribe(f"{inbox}.*", cb=receive)
            await client.flush()
            body = jobs.body({"code": f"first {url} {inbox}.bare"})
            headers = {"Rd-Stream": "reply"}
            for number in range(20 + size.rounds * 2):
                whole.clear()
                came.clear()
                await client.publish("rd.v1.run.bench.py", body, reply=f"{inbox}.{number}", headers=headers)
                try:
                    await asyncio.wait_for(whole.wait(), PATIENCE_S)
                except TimeoutError:
                    raise RuntimeError(f"of a job that streams, there came {', '.join(came)}") from None
                if number >= 20:
                    samples.add("streaming_first_byte_ms", (came["out"] - came["bare"]) * 1000)
                await asyncio.sleep(0.002)
            samples.result("streaming_first_byte_ms", p50(samples.raw["streaming_first_byte_ms"]))
