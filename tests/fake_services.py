"""A small daemon for tests of ingress: real answers, no sandbox. Programs are words: see `FakeServices._program`."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec

from runnerd import (
    Delivery,
    Event,
    Interrupted,
    Job,
    Language,
    NotFound,
    Output,
    Rejected,
    Result,
    Saturated,
    Started,
    decode_job,
    new_id,
)
from runnerd.job import File, text_of


def language(code: str) -> Language:
    return Language(code=code, name=code, filename=f"main.{code}", run=("true",), image=code, version=("true",), hello="")


class FakeServices:
    """Runs jobs whose code is one word and an argument, in `slots` places.

    `echo X` prints X · `wait` ends when `release` is called · `stream N SIZE` prints N pieces of SIZE · `big N` prints N bytes ·
    `nul N` prints N NULs · `files N SIZE` leaves N files · `exit N` · `die WHY` is dead ·
    `crash`, `saturated`, `interrupted` raise · `nothing` gives no result
    """

    def __init__(self, *languages: str, slots: int = 4) -> None:
        self.languages: Mapping[str, Language] = {code: language(code) for code in languages or ("py", "js")}
        self.sessions = None
        self.slots = slots
        self.running: dict[tuple[str, str], asyncio.Event] = {}
        self.results: dict[tuple[str, str], Result] = {}
        self.deliveries: list[Delivery] = []
        self.most_in_hand = 0
        self._waiting = 0
        self._draining = False
        self._free = asyncio.Condition()
        self._changed = asyncio.Event()

    # --- what an ingress may ask -------------------------------------------------------------------------------

    async def submit(self, job: Job | Delivery) -> AsyncIterator[Event]:
        assert isinstance(job, Delivery)
        self.deliveries.append(job)
        try:
            ready = self._decoded(job)
        except Rejected as error:
            yield Result(id=job.job_id, tenant=job.tenant, lang=job.lang, status="rejected", reason=str(error))
            return
        async for event in self._run(ready):
            yield event

    async def cancel(self, tenant: str, job_id: str, *, ahead: bool = False) -> Result | None:
        key = (tenant, job_id)
        if key in self.running:
            self.results[key] = Result(id=job_id, tenant=tenant, lang="py", status="cancelled", reason="cancelled by its submitter")
            self.running[key].set()
        return self.results.get(key)

    async def feed(self, tenant: str, job_id: str, data: bytes, *, end: bool = False) -> None:
        raise NotFound(f"there is no job {job_id} in hand here")

    async def answer(self, tenant: str, job_id: str, call: str, answer: bytes, *, failed: bool = False) -> None:
        raise NotFound(f"there is no job {job_id} in hand here")

    async def status(self, tenant: str, job_id: str) -> str | Result | None:
        return "running" if (tenant, job_id) in self.running else self.results.get((tenant, job_id))

    def free(self) -> int:
        return 0 if self._draining else max(0, self.slots - len(self.running) - self._waiting)

    async def changed(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    def draining(self) -> bool:
        return self._draining

    def health(self) -> dict[str, Any]:
        return {"running": len(self.running)}

    def metrics(self) -> bytes:
        return b""

    def happened(self, event: str) -> None:
        pass

    async def asyncapi(self) -> dict[str, Any]:
        return {"asyncapi": "3.0.0"}

    # --- what a test may do ------------------------------------------------------------------------------------

    def release(self) -> None:
        """Let all jobs that wait go on."""
        for event in self.running.values():
            event.set()

    def drain(self) -> None:
        self._draining = True
        self._changed.set()

    @contextmanager
    def _waits(self) -> Iterator[None]:
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    @staticmethod
    def _decoded(delivery: Delivery) -> Job:
        job = decode_job(delivery.body, delivery.content_type)
        for field, theirs in (("tenant", delivery.tenant), ("lang", delivery.lang), ("id", delivery.job_id)):
            if getattr(job, field) not in ("", theirs):
                raise Rejected(f"{field}: the subject or a header says {theirs!r}")
        return msgspec.structs.replace(
            job,
            id=delivery.job_id or new_id(),
            tenant=delivery.tenant,
            lang=delivery.lang,
            stream=job.stream or delivery.stream,
        )

    async def _run(self, job: Job) -> AsyncIterator[Event]:
        key = (job.tenant, job.id)
        with self._waits():
            self.most_in_hand = max(self.most_in_hand, len(self.running) + self._waiting)
            async with self._free:
                await self._free.wait_for(lambda: len(self.running) < self.slots)
                released = self.running[key] = asyncio.Event()
        try:
            if job.stream:
                yield Started(id=job.id, stage="run")
            ended: Result | None = None
            async for event in self._program(job, released):
                if isinstance(event, Result):
                    ended = event
                elif job.stream:
                    yield event
            if ended is not None:
                yield self.results.setdefault(key, ended)
        finally:
            del self.running[key]
            self._changed.set()
            async with self._free:
                self._free.notify_all()

    async def _program(self, job: Job, released: asyncio.Event) -> AsyncIterator[Event]:
        word, *numbers = (job.code or "").split(" ")
        done = Result(id=job.id, tenant=job.tenant, lang=job.lang, status="ok", exit_code=0)
        match word:
            case "wait":
                await released.wait()
            case "stream":
                for seq in range(1, int(numbers[0]) + 1):
                    yield Output(id=job.id, stream="stderr" if seq % 3 == 0 else "stdout", seq=seq, text="x" * int(numbers[1]))
                    await asyncio.sleep(0)
                done = msgspec.structs.replace(done, stdout="streamed")
            case "big":
                done = msgspec.structs.replace(done, stdout="x" * int(numbers[0]), stderr="y" * int(numbers[0]))
            case "nul":
                yield Output(id=job.id, stream="stdout", seq=1, text="\0" * int(numbers[0]))
                text, data = text_of(b"\0\xff" * int(numbers[0]))
                done = msgspec.structs.replace(done, stdout=text, stdout_bytes=data)
            case "files":
                files = tuple(File(name=f"{i}.bin", data=b"\0" * int(numbers[1])) for i in range(int(numbers[0])))
                done = msgspec.structs.replace(done, files=files, stdout="see files")
            case "die":
                done = msgspec.structs.replace(done, status="dead", exit_code=None, reason=" ".join(numbers), starts=3)
            case "exit":
                done = msgspec.structs.replace(done, status="failed", exit_code=int(numbers[0]))
            case "saturated":
                raise Saturated("the queue is full", 2.5)
            case "interrupted":
                raise Interrupted("the daemon stops")
            case "crash":
                raise RuntimeError("a fault in the daemon, with secrets in its text")
            case "nothing":
                return
            case _:
                yield Output(id=job.id, stream="stdout", seq=1, text=" ".join(numbers))
                done = msgspec.structs.replace(done, stdout=" ".join(numbers))
        yield done
