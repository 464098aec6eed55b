"""What every ingress has to do, as tests: a job by its protocol, the result back, and nothing left behind.

    class TestCarrierPigeon(IngressContract):
        def ingress(self, host: str, port: int) -> Ingress:
            return CarrierPigeon(host=host, port=port)

        def caller(self, address: str) -> AbstractAsyncContextManager[Caller]:
            return pigeon_fancier(address)

The daemon behind it is a `FakeServices`. Where the ingress needs a server, override the fixture `place` with one that
starts it.
"""

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, ClassVar, Protocol

import pytest

from ..asyncapi import document
from ..errors import IngressError, Interrupted, RunnerdError, Saturated
from ..job import Job, Result, new_id
from ..spec import Ingress
from .description import check_description
from .fake import FakeServices

PATIENCE_S = 30.0
NO_JOBS = {
    "empty": b"",
    "no JSON": b"echo hi",
    "half": b'{"code": "echo hi"',
    "no UTF-8": b"\xff\xfe",
    "a list": b"[]",
    "too deep": b"[" * 10_000,
}
"""Bodies that are no job in any protocol that carries JSON."""


class Caller(Protocol):
    """Somebody who speaks the ingress's protocol, with a connection of its own."""

    async def submit(self, job: Job) -> Result:
        """Send a job and wait for its result, with `id`, `status`, `exit_code`, `stdout` and `reason` as the caller can read them.

        Of the job `id` (a generated one), `lang`, `code`, `args` and `stdin` count. Raises Saturated where the caller is told
        to come again later, and any other RunnerdError where it is told that runnerd failed.
        """
        ...

    async def send(self, body: bytes) -> Result:
        """Send these bytes in place of a job, in the language `py` where the protocol names it beside the body; otherwise like `submit`."""
        ...


class IngressContract:
    """What every ingress has to do."""

    durable: ClassVar[bool] = False
    """Whether a job that is given back comes again by itself. Otherwise its caller has to be told to come again."""

    @pytest.fixture
    def place(self) -> tuple[str, int]:
        """Host and port of the server, or where to listen: port 0 is a free one."""
        return "127.0.0.1", 0

    def ingress(self, host: str, port: int) -> Ingress:
        """The ingress under test: listens there, or finds its server there within a few seconds."""
        raise NotImplementedError

    def caller(self, address: str) -> AbstractAsyncContextManager[Caller]:
        """A caller, connected; `address` is what the ingress said when it was opened."""
        raise NotImplementedError

    async def test_a_job_in_and_its_result_out(self, place: tuple[str, int]) -> None:
        """The job arrives as it was sent, and its result goes to whoever sent it."""
        async with self.open(place) as (services, caller):
            job = Job(id=new_id(), lang="py", code="given", args=("two words", "-x", "žluť 雪"), stdin="line\n🎉\n")
            result = await caller.submit(job)
            expected = ("ok", 0, job.id, "two words\n-x\nžluť 雪\nline\n🎉\n")
            assert (result.status, result.exit_code, result.id, result.stdout) == expected, f"the result is another: {result!r}"
            (ran,) = services.ran
            assert (ran.id, ran.lang, ran.code, ran.args, ran.stdin) == (job.id, "py", "given", job.args, job.stdin), f"it became {ran!r}"
            assert ran.tenant, "a job has a tenant"

    async def test_a_program_that_fails_has_a_result(self, place: tuple[str, int]) -> None:
        """What the program does wrong is a result, never an error of the protocol."""
        async with self.open(place) as (_, caller):
            result = await caller.submit(_job("exit 3"))
            assert (result.status, result.exit_code) == ("failed", 3), f"the result is another: {result!r}"

    async def test_everybody_gets_their_own_result(self, place: tuple[str, int]) -> None:
        """Jobs at the same time, from callers that share a connection."""
        async with self.open(place) as (services, caller):
            results = await asyncio.gather(*(caller.submit(_job(f"echo {number}")) for number in range(20)))
            assert [result.stdout for result in results] == [f"{number}\n" for number in range(20)]
            assert len(services.ran) == 20, "each job runs once"

    @pytest.mark.parametrize("body", NO_JOBS.values(), ids=NO_JOBS)
    async def test_a_body_that_is_no_job(self, place: tuple[str, int], body: bytes) -> None:
        """It is answered, with what is wrong; nothing runs, and the next job does."""
        async with self.open(place) as (services, caller):
            result = await caller.send(body)
            assert (result.status, bool(result.reason)) == ("rejected", True), f"no clear answer: {result!r}"
            assert services.ran == []
            assert (await caller.submit(_job("echo next"))).stdout == "next\n"

    async def test_an_unknown_language(self, place: tuple[str, int]) -> None:
        """The answer names it, or those that are known."""
        async with self.open(place) as (services, caller):
            result = await caller.submit(_job("echo hi", lang="cobol"))
            assert result.status == "rejected", f"no clear answer: {result!r}"
            assert "cobol" in result.reason or "js" in result.reason, f"no clear answer: {result!r}"
            assert services.ran == []

    async def test_a_job_that_the_daemon_rejects(self, place: tuple[str, int]) -> None:
        """The daemon's reason reaches the caller."""
        async with self.open(place) as (_, caller):
            result = await caller.submit(_job("refuse"))
            assert (result.status, "code: not this one" in result.reason) == ("rejected", True), f"no clear answer: {result!r}"

    @pytest.mark.parametrize(
        "failure", [Saturated("the queue is full", 2.0), Interrupted("the daemon stops")], ids=["saturated", "interrupted"]
    )
    async def test_a_job_that_can_not_run_now(self, place: tuple[str, int], failure: RunnerdError) -> None:
        """A durable ingress sees that the job comes again; any other tells its caller to."""
        async with self.open(place) as (services, caller):
            services.failures.append(failure)
            job = _job("echo at last")
            if not self.durable:
                with pytest.raises(Saturated):
                    await caller.submit(job)
            assert (await caller.submit(job)).stdout == "at last\n"
            assert len(services.ran) == 1

    async def test_a_fault_of_the_daemon_stays_inside(self, place: tuple[str, int]) -> None:
        """It is no result, its text is told to nobody, and the next job runs."""
        async with self.open(place) as (services, caller):
            services.failures.append(ZeroDivisionError("a secret of ours"))
            if self.durable:
                assert (await caller.submit(_job("echo again"))).stdout == "again\n", "the fault cost the job"
            else:
                with pytest.raises(RunnerdError) as told:
                    await caller.submit(_job("echo lost"))
                assert "secret" not in str(told.value)
            assert (await caller.submit(_job("echo next"))).stdout == "next\n"

    async def test_a_caller_that_goes_away_harms_nobody(self, place: tuple[str, int]) -> None:
        """Its job may go on or not; everybody else's does."""
        async with self.serve(place) as (services, address), asyncio.TaskGroup() as tasks:
            async with self.caller(address) as gone:
                waiting = tasks.create_task(gone.submit(_job("wait")))
                await until(lambda: services.waiting, "the job runs")
                waiting.cancel()
                await asyncio.wait([waiting])
            async with self.caller(address) as caller:
                assert (await caller.submit(_job("echo next"))).stdout == "next\n"
                services.release()
                await until(lambda: not services.waiting, "the job is over")
                assert (await caller.submit(_job("echo and next"))).stdout == "and next\n"

    async def test_stopping_finishes_what_is_in_hand_and_takes_no_more(self, place: tuple[str, int]) -> None:
        """Leaving the block waits for jobs that run, and their callers get their results."""
        services = FakeServices()
        opened: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        stop = asyncio.Event()

        async def daemon() -> None:
            async with self.ingress(*place).open(services) as address:
                opened.set_result(address)
                await stop.wait()
                services.drain()

        async with self.leaves_nothing(), asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(daemon())
            async with self.caller(await opened) as caller:
                waiting = tasks.create_task(caller.submit(_job("wait")))
                await until(lambda: services.waiting, "the job runs")
                stop.set()
                await until(services.draining, "the daemon stops")
                late = None
                if not self.durable:
                    with suppress(Exception):  # refused in any way that the protocol has
                        late = await caller.submit(_job("echo too late"))
                assert late is None, f"a job was taken: {late!r}"
                assert not serving.done(), "the ingress closed while a job was in hand"
                services.release()
                assert (await waiting).stdout == "released\n"
        assert [job.code for job in services.ran] == ["wait"]

    async def test_a_place_that_can_not_be_had(self, unused_tcp_port: int) -> None:
        """Another listens there already, or no server answers: the error names host and port."""
        ingress = self.ingress("127.0.0.1", unused_tcp_port)
        with socket.socket() as other:
            if ingress.listens():
                other.bind(("127.0.0.1", unused_tcp_port))
                other.listen()
            async with self.leaves_nothing():
                with pytest.raises(IngressError) as told:
                    async with ingress.open(FakeServices()):
                        raise AssertionError("it opened")
            assert "127.0.0.1" in str(told.value), f"the host is not named: {told.value}"
            assert str(unused_tcp_port) in str(told.value), f"the port is not named: {told.value}"

    async def test_its_description(self, place: tuple[str, int]) -> None:
        """It says what is so, open or not, and needs nobody for it. An ingress that says nothing is in no document."""
        ingress = self.ingress(*place)
        languages = FakeServices().languages
        said = ingress.describe(languages, "")
        async with self.serve(place) as (_, address):
            opened = ingress.describe(languages, address)
        assert (said is None) == (opened is None), "it describes itself only now and then"
        for description in (said, opened):
            if description is not None:
                check_description(description)
                assert document({"it": description})["operations"]

    async def test_it_can_be_opened_again(self, place: tuple[str, int]) -> None:
        """At the same place: what was closed is closed."""
        for _ in range(2):
            async with self.open(place) as (_, caller):
                assert (await caller.submit(_job("echo hi"))).stdout == "hi\n"

    async def test_errors_of_the_block_come_out_as_they_went_in(self, place: tuple[str, int]) -> None:
        """No exception group, no other error in its place."""
        async with self.leaves_nothing():
            with pytest.raises(KeyError, match="mine"):
                async with self.ingress(*place).open(FakeServices()):
                    raise KeyError("mine")

    @asynccontextmanager
    async def open(self, place: tuple[str, int]) -> AsyncGenerator[tuple[FakeServices, Caller]]:
        """The ingress, open, and a caller."""
        async with self.serve(place) as (services, address), self.caller(address) as caller:
            yield services, caller

    @asynccontextmanager
    async def serve(self, place: tuple[str, int]) -> AsyncGenerator[tuple[FakeServices, str]]:
        """The ingress, open, and its address; nothing of it is left afterwards."""
        services = FakeServices()
        async with self.leaves_nothing(), self.ingress(*place).open(services) as address:
            yield services, address

    @asynccontextmanager
    async def leaves_nothing(self) -> AsyncGenerator[None]:
        """No task and no socket is there after the block that was not there before."""
        tasks, sockets = asyncio.all_tasks(), _sockets()
        yield
        await until(lambda: not (asyncio.all_tasks() - tasks), lambda: f"tasks are left: {asyncio.all_tasks() - tasks}")
        await until(lambda: not (_sockets() - sockets), lambda: f"sockets are left: {_sockets() - sockets}")


def _job(code: str, **fields: Any) -> Job:
    return Job(**{"id": new_id(), "lang": "py", "code": code, **fields})


async def until(condition: Callable[[], Any], what: str | Callable[[], str]) -> None:
    """Wait for a condition; fails with what it waited for."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():  # noqa: ASYNC110 - nobody tells when a socket or a task is gone
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(what() if callable(what) else f"waited {PATIENCE_S:g} s in vain: {what}") from None


def _sockets() -> set[str]:
    """The sockets of this process, by their inodes; where there is no /proc, none are seen."""
    found = set()
    with suppress(FileNotFoundError):
        for name in os.listdir("/proc/self/fd"):
            with suppress(OSError):  # closed meanwhile
                found.add(os.readlink(f"/proc/self/fd/{name}"))
    return {target for target in found if target.startswith("socket:")}
