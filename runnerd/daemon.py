"""Puts the parts together: stores, executor, scheduler, ingresses. Read `open_daemon` top to bottom; it ends bottom to top."""

import asyncio
import copy
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import structlog

from . import __version__, asyncapi, placing
from .arrival import Names, arrival, plain, refusal
from .availability import Availability
from .config import Settings
from .errors import ConfigError, Interrupted, Rejected, Saturated
from .executors.here import open_here
from .isolation import check_level
from .job import Event, Job, Result
from .metrics import Meter, exposition
from .placing import OpenLocal
from .plugins import Plugins
from .scheduler import Scheduler, open_scheduler
from .sessions import Sessions
from .spec import Delivery, Executor, Language
from .store import Store
from .toolchains import Toolchains
from .workspace import WorkspaceSettings

log = structlog.get_logger("runnerd.daemon")


class Daemon:
    """A running daemon: what its ingresses may ask for (`Services`), and how it stops. Made by `open_daemon`."""

    def __init__(
        self,
        settings: Settings,
        *,
        names: Names,
        executor: Executor,
        scheduler: Scheduler,
        availability: Availability,
        meter: Meter,
    ) -> None:
        self.languages: Mapping[str, Language] = availability.languages
        self.availability = availability
        self.executor = executor
        self.sessions: Sessions | None = scheduler.sessions
        self.addresses: dict[str, str] = {}
        """Where each ingress listens, by kind, for people to read."""
        self._settings = settings
        self._names = names
        self._scheduler = scheduler
        self._meter = meter
        self._log = log.bind()  # to look for its settings with each line would cost as much as the line
        self.ingress = ""
        """Whose door this is, empty for nobody's."""
        self._document: dict[str, Any] = {}
        self._described = -1
        """How many ingresses were open when `_document` was made."""
        self._describing = asyncio.Lock()

    async def submit(self, job: Job | Delivery) -> AsyncGenerator[Event, None]:
        """See `Services.submit`."""
        lost = job.lost if isinstance(job, Delivery) else None
        ended: Result | None = None
        try:
            job = await plain(job, self._settings.limits.body_bytes)
            came = arrival(job, self._names)
            check_level(self.executor.level, self._settings.isolation)
            await self._check_tools(came.job.lang)
        except Rejected as error:
            result = refusal(job, error)
            self._ended(result)
            yield result
            return
        try:
            async with aclosing(self._scheduler.submit(came.job, owned=came.owned, kept=came.kept, lost=lost)) as events:
                async for event in events:
                    if isinstance(event, Result):
                        ended = event
                    yield event
        except (Saturated, Interrupted) as error:
            self._meter.refused(error, self.ingress)
            raise
        finally:
            if ended is not None:  # counted when it is on its way: nobody waits for that
                self._ended(ended)

    async def cancel(self, tenant: str, job_id: str, *, ahead: bool = False) -> Result | None:
        """See `Services.cancel`."""
        return await self._scheduler.cancel(tenant, job_id, ahead=ahead)

    async def feed(self, tenant: str, job_id: str, data: bytes, *, end: bool = False) -> None:
        """See `Services.feed`."""
        await self._scheduler.feed(tenant, job_id, data, end=end)

    async def answer(self, tenant: str, job_id: str, call: str, answer: bytes, *, failed: bool = False) -> None:
        """See `Services.answer`."""
        await self._scheduler.answer(tenant, job_id, call, answer, failed=failed)

    async def status(self, tenant: str, job_id: str) -> str | Result | None:
        """See `Services.status`."""
        return await self._scheduler.status(tenant, job_id)

    def free(self) -> int:
        """See `Services.free`."""
        return self._scheduler.free()

    async def changed(self) -> None:
        """See `Services.changed`."""
        await self._scheduler.changed()

    def draining(self) -> bool:
        """See `Services.draining`."""
        return self._scheduler.draining()

    def health(self) -> dict[str, Any]:
        """Version, sandboxes with the level they reached, languages, slots and pools; `refuses` says why no job is taken."""
        return {
            "version": __version__,
            "refuses": self.refuses(),
            "executor": executor_health(self.executor),
            "languages": {code: msgspec.to_builtins(found) for code, found in self.availability.found.items()},
            **self._scheduler.health(),
        }

    async def asyncapi(self) -> dict[str, Any]:
        """See `Services.asyncapi`. It has the address of each ingress once that is open."""
        async with self._describing:
            addresses = dict(self.addresses)
            if self._described != len(addresses):
                # reading the meaning of fields from the source takes longer than the loop can wait
                self._document = await asyncio.to_thread(asyncapi.of, self._settings.ingress, self.languages, addresses)
                self._described = len(addresses)
        return self._document

    def refuses(self) -> str:
        """Why every job is rejected; empty where jobs are taken."""
        try:
            check_level(self.executor.level, self._settings.isolation)
        except Rejected as error:
            return str(error)
        return ""

    def metrics(self) -> bytes:
        """See `Services.metrics`."""
        return exposition(self._meter, self.health(), self._scheduler.paces(), self._scheduler.sweeps())

    def happened(self, event: str) -> None:
        """See `Services.happened`."""
        self._meter.happened(self.ingress, event)

    def door(self, ingress: str) -> "Daemon":
        """This daemon as an ingress of that kind sees it: what comes through is counted as its own."""
        door = copy.copy(self)
        door.ingress = ingress
        return door

    def _ended(self, result: Result) -> None:
        self._meter.ended(result, self.ingress)
        _log_end(self._log, result)

    async def drain(self) -> None:
        """Take no more jobs, finish those in hand up to the grace, give the rest back."""
        await self._scheduler.drain()

    async def give_back(self) -> None:
        """Give back what is in hand, at once."""
        await self._scheduler.give_back()

    async def _check_tools(self, lang: str) -> None:
        if await self.availability.check(lang):
            self._scheduler.resize(lang, self._settings.pool.target(self.languages[lang]))


@asynccontextmanager
async def open_daemon(
    settings: Settings, plugins: Plugins, *, open_executor: OpenLocal = open_here, toolchains: Toolchains | None = None
) -> AsyncGenerator[Daemon, None]:
    """A daemon that takes jobs while the block is open. Raises ConfigError, StoreError, SandboxError and IngressError.

    Leaving the block gives back what is in hand; call `drain` first to finish it.
    """
    make_state_dir(settings.state_dir)
    languages = placing.cold_where_disabled(settings, effective_languages(settings, plugins))
    availability = Availability(languages, toolchains or placing.tool_chains(settings))
    await availability.look()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        meter = Meter(availability.languages)
        kv = meter.keys(await enter(settings.store.kv.open_kv()), kind_of(settings.store.kv))
        blobs = meter.blobs(await enter(settings.store.blob.open_blobs()), kind_of(settings.store.blob))
        executor = await enter(placing.open_executor(settings, languages, open_executor))
        workspaces = WorkspaceSettings(sessions=settings.sessions, files=settings.files, state=settings.state)
        opening = open_scheduler(
            executor,
            availability.warmable(),
            kv,
            placing.limits(settings),
            settings.scheduler,
            settings.pool,
            blobs,
            workspaces,
            settings.tools,
        )
        scheduler = await enter(opening)
        scheduler.counted = meter.started
        daemon = Daemon(
            settings,
            names=Names(languages, plugins.aliases),
            executor=executor,
            scheduler=scheduler,
            availability=availability,
            meter=meter,
        )
        for kind, ingress in settings.ingress.items():
            daemon.addresses[kind] = await enter(ingress.open(daemon.door(kind)))
        yield daemon


def effective_languages(settings: Settings, plugins: Plugins) -> dict[str, Language]:
    """The plugins' languages with what `[languages.<code>]` says otherwise."""
    languages = {}
    for code, language in plugins.languages.items():
        own = settings.languages.get(code)
        changes: dict[str, Any] = {} if own is None else {"warm": own.warm, "image": own.image}
        changes["reuse"] = (own and own.reuse) or settings.pool.reuse
        languages[code] = msgspec.structs.replace(language, **{name: value for name, value in changes.items() if value is not None})
    return languages


def executor_health(executor: Executor) -> dict[str, Any]:
    """The executor, the level it reached, and what it says about itself, where it does."""
    return {"name": executor.name, "level": executor.level, **getattr(executor, "description", {})}


def kind_of(store: Store) -> str:
    """The word that names a store in the configuration."""
    return str(store.__struct_config__.tag)


def make_state_dir(directory: str) -> None:
    """Make the directory where there is none, readable by us alone. Raises ConfigError."""
    try:
        Path(directory).mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"state_dir: {directory} can't be made: {error.strerror}: set RUNNERD_STATE_DIR to another place") from None


def _log_end(log: Any, result: Result) -> None:
    """One line per result that was given: what happened, never what was in it."""
    log.info(
        "job ended",
        job=result.id,
        tenant=result.tenant,
        lang=result.lang,
        status=result.status,
        reason=result.reason,
        starts=result.starts,
        queued_ms=round(result.usage.queued_ms, 1),
        ran_ms=round(result.usage.ran_ms, 1),
        isolation=result.sandbox.level if result.sandbox else "",
    )
