"""Daemons and the server are killed, stopped and drained at random while jobs come, twice at times, and some are cancelled.

However that goes: each job has exactly one result, no two answers say different things, and nothing stays in a queue.
"""

import asyncio
import random
import signal
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
from nats.errors import Error as NatsError

from jetstream import Durable, Process, durable, inbox, process
from redis_fixture import RedisServer
from runnerd import decode_result

JOBS = 60
DAEMONS = 3
FINAL = {"ok", "cancelled", "dead"}


AWAY = (NatsError, TimeoutError, OSError)


def code(number: int) -> str:
    return f"sleep {number % 7 / 20}"


class Chaos:
    """Daemons that come and go, by chance of one seed."""

    def __init__(self, bus: Durable, chance: random.Random, flags: tuple[str, ...], stack: AsyncExitStack) -> None:
        self.bus = bus
        self.chance = chance
        self.daemons: list[Process] = []
        self._flags = flags
        self._stack = stack
        self._born = 0

    async def start(self) -> None:
        self._born += 1
        started = process(self.bus, f"chaos{self._born}", *self._flags, ack_wait_s=1.0)
        self.daemons.append(await self._stack.enter_async_context(started))

    async def strike(self) -> None:
        """Do one evil thing."""
        victim = self.daemons.pop(self.chance.randrange(len(self.daemons)))
        match self.chance.choice(("kill", "drain", "stop", "server")):
            case "kill":
                await victim.end(signal.SIGKILL)
                await self.start()
            case "drain":
                assert await victim.end(signal.SIGTERM) == 0
                await self.start()
            case "stop":
                victim.signal(signal.SIGSTOP)
                await asyncio.sleep(2.5)  # longer than its messages and its lease last
                victim.signal(signal.SIGCONT)
                self.daemons.append(victim)
            case "server":
                self.daemons.append(victim)
                await self.bus.server.kill()
                await asyncio.sleep(self.chance.choice((0.1, 1.5)))
                await self.bus.server.start()


async def submitted(bus: Durable, number: int, to: str) -> None:
    """Submit a job until the server has it, as a careful submitter does."""
    while True:
        try:
            await bus.submit(code(number), f"job{number}", nats_msg_id=f"job{number}", rd_reply_to=to)
        except AWAY:
            await asyncio.sleep(0.1)
        else:
            return


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(3))
async def test_each_job_ends_once_whatever_happens(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    async with (
        durable(tmp_path) as bus,
        RedisServer(tmp_path / "redis") as redis,
        inbox(bus.client) as (to, answers),
        AsyncExitStack() as stack,
    ):
        flags = ("store.kv.kind=redis", f"store.kv.port={redis.port}", "scheduler.lease_s=1", "scheduler.starts=20")
        chaos = Chaos(bus, chance, flags, stack)
        for _ in range(DAEMONS):
            await chaos.start()

        async def submit() -> None:
            for number in range(JOBS):
                await submitted(bus, number, to)
                with suppress(*AWAY):
                    if chance.random() < 0.2:
                        await bus.control(f"job{chance.randrange(number + 1)}", "cancel")
                    if chance.random() < 0.2:
                        await bus.submit(code(number), f"job{number}", nats_msg_id=f"again{number}", rd_reply_to=to)
                await asyncio.sleep(chance.random() / 10)

        async with asyncio.TaskGroup() as tasks:
            submitting = tasks.create_task(submit())
            while not submitting.done():
                await chaos.strike()
        async with asyncio.timeout(120):
            await bus.drained()

        results = {f"job{number}": await bus.result(f"job{number}") for number in range(JOBS)}
        assert {result.status for result in results.values()} <= FINAL
        assert await bus.messages("RD_RES") == JOBS
        assert await bus.messages("RD_DEAD") == sum(result.status == "dead" for result in results.values())
        for answer in answers:
            said = decode_result(answer.data)
            assert said == results[said.id], "an answer contradicts the result"
