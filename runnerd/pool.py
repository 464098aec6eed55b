"""Sandboxes of one language: some stand warm, each is leased once, and the pool refills as soon as a lease begins.

`policy` decides, this acts. Each sandbox lives in one task, its keeper, from its start to its end; so nobody but the keeper
opens or closes it, and nobody but the keeper waits for that.
"""

import asyncio
import random
from asyncio import CancelledError, TaskGroup
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Self

import structlog

from .errors import SandboxError
from .nursery import open_nursery
from .pace import Pace
from .policy import Policy, PoolSettings, Seat, Stay, Waiter
from .spec import Executor, Language, Sandbox

__all__ = ["Lease", "Pool", "PoolSettings", "open_pool"]

log = structlog.get_logger("runnerd.pool")


class Lease:
    """One job's exclusive use of one sandbox, while its block is open. The block may be left, or cancelled, at any moment."""

    __slots__ = ("_keep", "_pool", "_seat", "_stay", "_tenant", "resumed", "sandbox", "warm")

    sandbox: Sandbox
    warm: bool
    """Whether the sandbox stood ready."""
    resumed: bool
    """Whether it was kept for this."""

    def __init__(self, pool: "Pool", tenant: str, stay: Stay | None) -> None:
        self._pool = pool
        self._tenant = tenant
        self._stay = stay
        self._keep: Stay | None = None

    def keep(self, stay: Stay) -> None:
        """When the block is left, the sandbox is to be kept for whoever asks for the same, if it may be."""
        self._keep = stay

    async def __aenter__(self) -> Self:
        """Raises SandboxError where no sandbox could be started for it."""
        seat = None if self._stay is None else self._pool.resume(self._stay)
        self.resumed = seat is not None
        if seat is None:
            seat = self._pool.policy.take(self._tenant)
        self.warm = seat is not None
        if seat is None:
            began = asyncio.get_running_loop().time()
            seat = await self._pool.wait(self._tenant)
            self._pool.pace.waited(asyncio.get_running_loop().time() - began)
        else:
            self._pool.pace.waited(0.0)
            self._pool.refill_soon()
        self._seat = seat
        assert seat.sandbox is not None
        self.sandbox = seat.sandbox
        return self

    async def __aexit__(self, kind: object = None, *_: object) -> None:
        if self._keep is not None and kind is None:
            self._pool.keep(self._seat, self._keep)
        else:
            self._pool.end(self._seat)


class Pool:
    """The sandboxes of one language. Made by `open_pool`."""

    def __init__(self, executor: Executor, language: Language, settings: PoolSettings, slots: int, tasks: TaskGroup) -> None:
        self.policy = Policy(settings.target(language), slots, settings, keeps=language.reuse != "job")
        self.recovered: Callable[[], None] = lambda: None
        """Called when sandboxes can be had again."""
        self.pace = Pace()
        self._executor = executor
        self.language = language
        self._settings = settings
        self._tasks = tasks
        self._filled = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._due = False
        self._again: asyncio.TimerHandle | None = None
        self._closed = False
        self._empty = asyncio.Event()

    def __repr__(self) -> str:
        policy = self.policy
        counts = f"starting {len(policy.starting)} | leased {len(policy.leased)} | waiting {len(policy.waiting)}"
        return f"<Pool {self.language.code} [warm {len(policy.warm)}/{policy.target} | {counts}]>"

    def lease(self, tenant: str = "", stay: Stay | None = None) -> Lease:
        """`async with pool.lease(tenant) as leased:` has `leased.sandbox` for itself, and nobody has it after; unless it is kept.

        `stay`: for what it may have been kept. Those that were kept for the same, and are not as they should be, end.
        """
        return Lease(self, tenant, stay)

    def resize(self, warm: int) -> None:
        """Keep so many sandboxes warm from now on."""
        self.policy.target = max(0, warm)
        self.refill_soon()

    async def warmed(self) -> None:
        """Wait until the pool was filled for the first time, or a start failed."""
        await self._filled.wait()

    def failing(self) -> str:
        """Why there is no sandbox to be had now; empty where one is warm or can be started."""
        return "" if self.policy.warm else self.policy.failing

    @property
    def ready(self) -> int:
        """How many sandboxes stand warm."""
        return len(self.policy.warm)

    def health(self) -> dict[str, Any]:
        """Counts by state, the target, and why starts fail: plain data."""
        policy = self.policy
        counts = {name: len(getattr(policy, name)) for name in ("warm", "starting", "leased", "kept", "ending", "waiting")}
        about = {"reuse": self.language.reuse, "target": policy.target, "limit": policy.limit, "failing": policy.failing}
        return {**counts, **about, **self.pace.health()}

    async def wait(self, tenant: str) -> Seat:
        """Wait in line for a sandbox; it is leased when this returns. Raises SandboxError."""
        if self._closed:
            raise SandboxError(f"the pool of {self.language.code} is closed")
        told: asyncio.Future[Seat] = asyncio.get_running_loop().create_future()
        waiter = Waiter(tenant, told)
        self.policy.waiting[waiter] = None
        self.refill_soon()
        try:
            return await told
        except CancelledError:
            self.policy.waiting.pop(waiter, None)
            if told.done() and not told.cancelled() and told.exception() is None:
                self.end(told.result())
            raise

    def end(self, seat: Seat) -> None:
        """End a lease. Its keeper ends the sandbox, and nobody waits for that."""
        if seat.state == "leased":
            self.policy.end(seat)
        self._close(seat)

    def keep(self, seat: Seat, stay: Stay) -> None:
        """End a lease, but not its sandbox."""
        if self._closed or seat.state != "leased" or not seat.sandbox or not seat.sandbox.kept:
            self.end(seat)
            return
        self.policy.keep(seat, stay, self._loop.time())
        seat.guard = self._tasks.create_task(self._guard(seat))
        self.refill_soon()

    def resume(self, stay: Stay) -> Seat | None:
        """The sandbox that is kept for this, leased again."""
        seat, stale = self.policy.resume(stay)
        for other in stale:
            self._close(other)
        if seat is not None and seat.guard is not None:
            seat.guard.cancel()
        return seat

    def refill_soon(self) -> None:
        """Act on the policy's plan in the next turn of the loop: to be called after each change that the policy has not seen."""
        if not self._due:
            self._due = True
            self._loop.call_soon(self._refill)

    def _refill(self) -> None:
        self._due = False
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self._closed:
            return
        plan = self.policy.plan(self._loop.time())
        for waiter, seat in plan.hand:
            assert waiter.told is not None
            if waiter.told.done():  # cancelled in this very turn of the loop
                self.end(seat)
            else:
                waiter.told.set_result(seat)
        for seat in plan.close:
            self._close(seat)
        for seat in plan.start:
            seat.ended = asyncio.Event()
            keeper = self._tasks.create_task(self._keep(seat))
            keeper.add_done_callback(partial(self._gone, seat))
        if self.policy.failing or len(self.policy.warm) + len(self.policy.leased) >= self.policy.target:
            self._filled.set()
        if plan.again_at is not None:
            self._again = self._loop.call_at(plan.again_at, self._refill)

    async def close(self) -> None:
        """Take no more leases and wait until every sandbox has ended, even where the caller is cancelled meanwhile."""
        self._closed = True
        if self._again is not None:
            self._again.cancel()
        for waiter in self.policy.waiting:
            if waiter.told is not None and not waiter.told.done():
                waiter.told.set_exception(SandboxError(f"the pool of {self.language.code} is closed"))
        self.policy.waiting.clear()
        for seat in (*self.policy.starting, *self.policy.warm, *self.policy.leased, *self.policy.kept):
            self.policy.retire(seat)
            self._close(seat)
        cancelled: CancelledError | None = None
        while self.policy.alive:
            self._empty.clear()
            try:
                await self._empty.wait()
            except CancelledError as error:  # every keeper bounds its own end, so this ends as well
                cancelled = error
        if cancelled is not None:
            raise cancelled

    def _close(self, seat: Seat) -> None:
        """Have the keeper end its sandbox, whatever it is doing."""
        assert seat.ended is not None
        seat.ended.set()
        if seat.guard is not None:
            seat.guard.cancel()
        if seat.watch is not None and not seat.watch.expired():
            seat.watch.reschedule(0)

    async def _keep(self, seat: Seat) -> None:
        """Carry one sandbox from its start to its end."""
        stack = AsyncExitStack()
        try:
            if await self._start(seat, stack):
                await self._watch(seat)
                assert seat.ended is not None
                if seat.state in ("leased", "kept"):
                    await seat.ended.wait()
        finally:
            await self._shut(stack)

    def _gone(self, seat: Seat, _keeper: asyncio.Task[None]) -> None:
        self.policy.gone(seat)
        self.refill_soon()
        if not self.policy.alive:
            self._empty.set()

    async def _start(self, seat: Seat, stack: AsyncExitStack) -> bool:
        if self._closed:
            return False
        began = self._loop.time()
        try:
            async with asyncio.timeout(self._settings.start_timeout_s) as seat.watch:
                sandbox = await stack.enter_async_context(self._executor.sandbox(self.language))
        except Exception as error:  # noqa: BLE001 - an executor is foreign code, and whatever it raises is a failed start
            if not self._closed:
                late = seat.watch is not None and seat.watch.expired() and not isinstance(error, SandboxError)
                self._failed(seat, f"not started within {self._settings.start_timeout_s:g} s" if late else _reason(error))
            return False
        finally:
            seat.watch = None
        failed_before = bool(self.policy.failing)
        self.pace.started(self._loop.time() - began)
        self.policy.ready(seat, sandbox, self._loop.time())
        self.refill_soon()
        if failed_before:
            self.recovered()
        return True

    def _failed(self, seat: Seat, reason: str) -> None:
        self.pace.failed()
        log.warning("sandbox did not start", language=self.language.code, reason=reason)
        waiter = self.policy.failed(seat, reason, asyncio.get_running_loop().time())
        self.refill_soon()
        if waiter is not None and waiter.told is not None and not waiter.told.done():
            waiter.told.set_exception(SandboxError(reason))

    async def _watch(self, seat: Seat) -> None:
        """Wait until the sandbox is lost, too old, or ended from outside."""
        if self._closed or seat.sandbox is None:
            return
        age_s = self._settings.max_age_s * random.uniform(0.8, 1)  # noqa: S311 - spreads replacements, no secret
        try:
            async with asyncio.timeout(age_s) as seat.watch:
                reason = await seat.sandbox.lost()
        except TimeoutError:
            self.policy.retire(seat)
            return
        except Exception as error:  # noqa: BLE001 - an executor is foreign code; one that can't watch has lost it
            reason = _reason(error)
        finally:
            seat.watch = None
        if seat.state == "warm":
            log.warning("warm sandbox lost", language=self.language.code, reason=reason)
        self.policy.lost(seat, reason, asyncio.get_running_loop().time())

    async def _guard(self, seat: Seat) -> None:
        """Wait until a sandbox that is kept is lost."""
        assert seat.sandbox is not None
        try:
            reason = await seat.sandbox.lost()
        except Exception as error:  # noqa: BLE001 - an executor is foreign code; one that can't watch has lost it
            reason = _reason(error)
        if seat.state == "kept":
            log.info("kept sandbox lost", language=self.language.code, reason=reason)
            self.policy.lost(seat, reason, self._loop.time())
            self._close(seat)

    async def _shut(self, stack: AsyncExitStack) -> None:
        try:
            async with asyncio.timeout(self._settings.close_timeout_s):
                await stack.aclose()
        except Exception as error:  # noqa: BLE001 - an executor is foreign code, and the sandbox is gone for us either way
            log.warning("sandbox did not end well", language=self.language.code, reason=_reason(error))


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, SandboxError) and str(error) else f"{type(error).__name__}: {error}"


@asynccontextmanager
async def open_pool(
    executor: Executor, language: Language, settings: PoolSettings | None = None, slots: int = 10
) -> AsyncGenerator[Pool, None]:
    """A pool that fills itself while the block is open; every sandbox has ended when it is left. `slots`: leases at once."""
    async with open_nursery() as tasks:
        pool = Pool(executor, language, settings or PoolSettings(), slots, tasks)
        pool.refill_soon()
        try:
            yield pool
        finally:
            await pool.close()
