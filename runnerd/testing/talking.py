"""What an ingress has to do on which jobs are talked to while they run, beside all that every one has to do.

class TestParrot(TalkContract):
    def ingress(self, host: str, port: int) -> Ingress:
        return Parrot(host=host, port=port)

    def caller(self, address: str) -> AbstractAsyncContextManager[Talker]:
        return parrot_keeper(address)
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Protocol

import pytest

from ..errors import Conflict, OverLimit, Rejected
from ..job import Event, Job, Result, ToolCall, new_id
from .ingress import Caller, IngressContract, until


class Talker(Caller, Protocol):
    """Somebody who speaks the ingress's protocol, to jobs that run as well."""

    def talk(self, job: Job) -> AsyncGenerator[Event]:
        """Send a job; its events as they come, its Result last. Beside what counts for `submit`, `interactive` and `tools` do."""
        ...

    async def feed(self, job_id: str, data: bytes, *, end: bool = False) -> None:
        """Add to a job's standard input, and wait for what a daemon says to that. Raises Rejected, Conflict and OverLimit."""
        ...

    async def answer(self, job_id: str, call: str, answer: bytes, *, failed: bool = False) -> None:
        """Answer a call of a tool, with JSON or, where it `failed`, a text. Raises what `feed` raises."""
        ...


class TalkContract(IngressContract):
    """What an ingress has to do on which jobs are talked to."""

    def caller(self, address: str) -> AbstractAsyncContextManager[Talker]:
        """A caller, connected; `address` is what the ingress said when it was opened."""
        raise NotImplementedError

    async def test_input_while_a_job_runs(self, place: tuple[str, int]) -> None:
        """Pieces reach the program once each, in their order, and then their end does."""
        async with self.serve(place) as (services, address), self.caller(address) as talker:
            job = Job(id=new_id(), lang="py", code="read", interactive=True)
            async with asyncio.TaskGroup() as tasks:
                running = tasks.create_task(_result(talker, job))
                await until(lambda: services.reading, "the job reads")
                for piece in (b"one\n", "žluť 雪\n".encode(), b""):
                    await talker.feed(job.id, piece)
                await talker.feed(job.id, b"last", end=True)
            assert running.result().stdout == "one\nžluť 雪\nlast"
            with pytest.raises(Conflict):
                await talker.feed(job.id, b"late")

    @pytest.mark.parametrize(
        ("answer", "failed", "line"), [('{\n"x": "雪"}', False, '"result":{ "x": "雪"}'), ("no 雪", True, '"error":"no 雪"')]
    )
    async def test_a_call_and_its_answer(self, place: tuple[str, int], answer: str, failed: bool, line: str) -> None:
        """The call comes to who submitted the job, and the program gets the answer."""
        async with self.serve(place) as (_, address), self.caller(address) as talker:
            job = Job(id=new_id(), lang="py", code="call lookup", tools=("lookup",))
            async with aclosing(talker.talk(job)) as events:
                call = await anext(events)
                assert isinstance(call, ToolCall), f"no call came first: {call!r}"
                assert (call.id, call.name, call.arguments) == (job.id, "lookup", '{"n":1}'), f"it became {call!r}"
                await talker.answer(job.id, call.call, answer.encode(), failed=failed)
                result = await anext(events)
            assert isinstance(result, Result)
            assert line in result.stdout, f"the answer is another: {result.stdout!r}"
            with pytest.raises(Conflict):
                await talker.answer(job.id, call.call, b"1")

    async def test_what_can_not_be_said(self, place: tuple[str, int]) -> None:
        """It is refused, with what is wrong; a call waits on."""
        async with self.serve(place) as (_, address), self.caller(address) as talker:
            job = Job(id=new_id(), lang="py", code="call lookup", tools=("lookup",))
            async with aclosing(talker.talk(job)) as events:
                call = await anext(events)
                assert isinstance(call, ToolCall), f"no call came first: {call!r}"
                with pytest.raises(Rejected):
                    await talker.feed(job.id, b"it is not interactive")
                with pytest.raises(Rejected):
                    await talker.answer(job.id, call.call, b"this is no JSON")
                with pytest.raises(Conflict):
                    await talker.answer(job.id, "999", b"1")
                with pytest.raises(OverLimit):
                    await talker.answer(job.id, call.call, b'"%b"' % (b"x" * FAR_TOO_LONG), failed=True)
                with pytest.raises(TimeoutError):  # another daemon may have it, and would say so
                    async with asyncio.timeout(0.5):
                        await talker.answer("unknown", call.call, b"1")
                await talker.answer(job.id, call.call, b"1")
                result = await anext(events)
            assert isinstance(result, Result)
            assert '"result":1' in result.stdout

    async def test_many_jobs_are_talked_to_at_once(self, place: tuple[str, int]) -> None:
        """Each gets what is said to it."""
        async with self.serve(place) as (_, address), self.caller(address) as talker, asyncio.TaskGroup() as tasks:
            said = [tasks.create_task(_answered(talker, number)) for number in range(20)]
        assert [task.result() for task in said] == [f'{{"id":null,"result":{number}}}\n' for number in range(20)]


FAR_TOO_LONG = 200_000
"""Bytes of an answer; `FakeServices` takes half of it."""


async def _result(talker: Talker, job: Job) -> Result:
    async with aclosing(talker.talk(job)) as events:
        async for event in events:
            if isinstance(event, Result):
                return event
    raise AssertionError("the events ended without a result")


async def _answered(talker: Talker, number: int) -> str:
    job = Job(id=new_id(), lang="py", code="call lookup", tools=("lookup",))
    async with aclosing(talker.talk(job)) as events:
        async for event in events:
            if isinstance(event, ToolCall):
                await talker.answer(job.id, event.call, b"%d" % number)
            elif isinstance(event, Result):
                return event.stdout
    raise AssertionError("the events ended without a result")
