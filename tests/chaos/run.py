"""One run: daemons, a broker and a store, jobs and strikes by their schedule, and what can be seen when all is calm again."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeVar

from chaos.blows import Blows
from chaos.bus import CALM_S, Away, ChaosBus
from chaos.daemons import Held, Place
from chaos.processes import processes
from chaos.schedule import LONG_S, SHORT_S, Planned, Schedule, Strike
from chaos.wire import wire
from redis_fixture import RedisServer
from runnerd import Result

FLAGS = ("scheduler.slots=8", "scheduler.lease_s=2", "scheduler.starts=8", "scheduler.grace_s=20", "scheduler.record_patience_s=1.5")
T = TypeVar("T")
SWEEP = ("scheduler.sweep_s=0.5",)


class Run:
    """What is there, and what was seen."""

    def __init__(self, bus: ChaosBus, plan: Schedule, directory: Path, store: RedisServer | None) -> None:
        self.bus = bus
        self.plan = plan
        self.places: list[Place] = []
        self.counts: Counter[str] = Counter()
        self.before: Held | None = None
        self.cancelled: dict[str, Result] = {}
        """What those were told who cancelled a job."""
        self.blows = Blows()
        self.directory = directory
        self._store = store
        self._locks: dict[str, asyncio.Lock] = {}
        self.began = 0.0

    async def open(self, stack: AsyncExitStack, daemons: int) -> None:
        """Start the daemons, each behind a wire of its own."""
        forks = await stack.enter_async_context(processes(self.directory))
        for number in range(daemons):
            way = await stack.enter_async_context(wire(self.bus.port))
            if self._store is None:
                store = ("store.kv.kind=jetstream", f"store.kv.url=nats://127.0.0.1:{way.port}")
            else:
                store = ("store.kv.kind=redis", "store.kv.host=127.0.0.1", f"store.kv.port={self._store.port}")
            place = Place(number, forks, self.bus.kind, self.directory, (*FLAGS, *SWEEP, *store, *self.bus.flags(way.port)), way)
            self.places.append(place)
        async with asyncio.TaskGroup() as tasks:
            for place in self.places:
                tasks.create_task(place.begin())
        self.before = await self.places[0].held()

    async def go(self) -> None:
        """Let the schedule happen, and wait until all is calm."""
        self.began = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as tasks:
            for strike in self.plan.strikes:
                tasks.create_task(self._strike(strike))
            for job in self.plan.jobs:
                tasks.create_task(self._job(job))
        await self.calm()

    async def calm(self) -> None:
        """Wait until nothing is left on the bus."""
        left: object = "nobody said"
        try:
            async with asyncio.timeout(CALM_S):
                while left:
                    try:
                        left = await self.bus.left()
                    except (Away, AssertionError) as error:
                        left = error
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"still on the bus after {CALM_S:g} s: {left}") from None
        await self.bus.collected()

    async def status(self, job: str) -> Result | str | None:
        return await insistently(lambda: self.bus.status(job))

    async def again(self, job: Planned) -> None:
        """Submit a job once more."""
        self.counts["submitted again"] += 1
        await insistently(lambda: self.bus.submit(job.id, job.code, "again", streams=job.streams))

    async def other(self, job: Planned) -> None:
        """Submit another job under the id of one that has ended."""
        while not recorded(await self.status(job.id)):
            await asyncio.sleep(0.2)
        self.counts["others submitted"] += 1
        await insistently(lambda: self.bus.submit(job.id, f"{job.code} other", "other"))

    async def _at(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, self.began + at_s - asyncio.get_running_loop().time()))

    async def _job(self, job: Planned) -> None:
        await self._at(job.at_s)
        await insistently(lambda: self.bus.submit(job.id, job.code, "first", streams=job.streams))
        self.counts["jobs"] += 1
        async with asyncio.TaskGroup() as tasks:
            if job.again_s is not None:
                tasks.create_task(self._later(job.again_s, lambda: self.again(job)))
            if job.other_s is not None:
                tasks.create_task(self._later(job.other_s, lambda: self.other(job)))
            if job.cancel_s is not None:
                tasks.create_task(self._later(job.cancel_s, lambda: self._cancel(job.id)))

    async def _cancel(self, job: str) -> None:
        answer = await insistently(lambda: self.bus.cancel(job))
        if answer is not None:
            self.counts["cancels answered"] += 1
            self.cancelled[job] = answer

    @staticmethod
    async def _later(after_s: float, act: Callable[[], Awaitable[None]]) -> None:
        await asyncio.sleep(after_s)
        await act()

    async def _strike(self, strike: Strike) -> None:
        await self._at(strike.at_s)
        place = self.places[strike.daemon]
        target = strike.kind.partition("-")[0]
        target = target if target in ("broker", "store", "slow") else str(strike.daemon)
        async with self._locks.setdefault(target, asyncio.Lock()):  # one at a time to each
            self.counts[strike.kind] += 1
            match strike.kind:
                case "kill" | "kill-long":
                    with self.blows.at(strike.kind, place.name):
                        await place.kill()
                    await asyncio.sleep(LONG_S if strike.kind == "kill-long" else SHORT_S)
                    await place.begin()
                case "drain":
                    code = await place.drain()
                    assert code == 0, f"{place.name} was told to stop and ended with {code}"
                    await place.begin()
                case "pause":
                    with self.blows.at(strike.kind, place.name):
                        place.stop()
                        await asyncio.sleep(LONG_S)
                        place.go_on()
                case "cut" | "silence":
                    with self.blows.at(strike.kind, place.name, excuses=self._store is None):
                        (place.wire.cut if strike.kind == "cut" else place.wire.silence)()
                        await asyncio.sleep(LONG_S)
                        place.wire.mend()
                case "broker" | "broker-long":
                    with self.blows.at(strike.kind, excuses=self._store is None):
                        await self.bus.kill()
                        await asyncio.sleep(LONG_S if strike.kind == "broker-long" else SHORT_S)
                        await self.bus.start()
                case "store" | "store-pause":
                    with self.blows.at(strike.kind):
                        await self._store_away(strike)
                case "slow":
                    self.bus.slow(True)
                    await asyncio.sleep(LONG_S)
                    self.bus.slow(False)

    async def _store_away(self, strike: Strike) -> None:
        assert self._store is not None
        assert self._store.process is not None
        if strike.kind == "store":
            await self._store.kill()
            await asyncio.sleep(LONG_S)
            await self._store.start()
        else:
            os.kill(self._store.process.pid, signal.SIGSTOP)
            await asyncio.sleep(LONG_S)
            os.kill(self._store.process.pid, signal.SIGCONT)


def recorded(answer: Result | str | None) -> bool:
    """Whether it is a result that stands. One that the store did not take says so."""
    return isinstance(answer, Result) and "could not be recorded" not in answer.reason


async def insistently(act: Callable[[], Awaitable[T]]) -> T:
    """Do what a careful client does: ask again until there is an answer."""
    last: object = None
    try:
        async with asyncio.timeout(CALM_S):
            while True:
                try:
                    return await act()
                except Away as error:
                    last = error
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"no answer in {CALM_S:g} s: {last}") from None
