"""What the parts of runnerd agree on: Language, Ingress, Services, Workspace, Executor, Sandbox.

Plugins describe themselves with these types; nothing here does any I/O.
"""

import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import PurePosixPath
from typing import Any, Protocol

from msgspec import Struct

from .codec import JSON
from .description import Description
from .job import Event, Job, Limits, Result, Reuse, Skipped, Stored
from .letters import DeadLetters, Prepared
from .sessions import Sessions
from .stdin import Stdin
from .tools import Tools

_PLACEHOLDER = re.compile(r"\{(file|stem|main|tmp|memory_bytes)\}")


class Install(Struct, frozen=True, kw_only=True):
    """How to install a language's tool chain on a machine of its own."""

    debian: tuple[str, ...] = ()
    npm: tuple[str, ...] = ()


class Language(Struct, frozen=True, kw_only=True):
    """How to compile and run one language: data, nothing else.

    In `compile` and `run` these are replaced, and nothing else: `{file}` the program's file name, `{stem}` that name without
    its suffix, `{main}` see `main_patterns`, `{tmp}` a directory for what should not count as output (`/tmp` in most sandboxes),
    `{memory_bytes}` the job's memory limit. Arguments of the job are appended to `run`. Both are started in the directory
    of the program, `/mnt/data`, without a shell; HOME and TMPDIR are `{tmp}`.
    """

    code: str
    """Short code, the language's name on the wire: `py`."""
    name: str
    """What people call it: `Python`."""
    aliases: tuple[str, ...] = ()
    """Further names that a job's body may use."""
    suffixes: tuple[str, ...] = ()
    """File name endings, with their dot."""
    filename: str
    """Under what name a job's `code` is saved."""
    filename_pattern: str | None = None
    """A regular expression; its first group, found in `code`, replaces the stem of `filename`."""
    main_patterns: tuple[str, ...] = ()
    """Regular expressions for `{main}`: what their first groups find in the program, joined by `.`.

    The last stands for the program's name: where it finds nothing, that is the file name without directory and suffix.
    """
    compile: tuple[str, ...] | None = None
    run: tuple[str, ...]
    env: Mapping[str, str] = {}
    """Variables that the tool chain needs."""
    paths: tuple[str, ...] = ()
    """Host paths (globs) besides /usr that the tool chain reads, such as /etc/R."""
    image: str
    """Image of its pods, without registry and tag."""
    warm: int = 0
    """Sandboxes kept warm by default."""
    reuse: Reuse = "job"
    """What one of its sandboxes serves. It is the daemon's settings that say so: what a plugin says here counts for nothing."""
    wall_multiplier: float = 1.0
    """Times the default wall time."""
    memory_multiplier: float = 1.0
    """Times the default memory."""
    warmup: str | None = None
    """What a standby sandbox has started already: `python`, or None for nothing."""
    version: tuple[str, ...]
    """A command that prints the tool chain's version."""
    install: Install = Install()
    hello: str
    """A program that prints `hi` and a newline."""

    def saved_as(self, code: str) -> str:
        """The file name under which a job's `code` is saved."""
        found = re.search(self.filename_pattern, code) if self.filename_pattern else None
        return found[1] + _suffix(self.filename) if found and found[1] else self.filename

    def argv(self, command: tuple[str, ...], *, file: str, code: str, tmp: str, memory_bytes: int) -> tuple[str, ...]:
        """`compile` or `run` for the program `code` in `file`."""
        path = file if file[0].isalnum() or file[0] == "_" else "./" + file  # never taken for an option (-x.c) or a list of them (@x.c)
        found = (re.search(pattern, code) for pattern in self.main_patterns)
        names = [(match and match[1]) or "" for match in found] or [""]
        names[-1] = names[-1] or PurePosixPath(file).stem
        values = {
            "file": path,
            "stem": file.removesuffix(_suffix(file)),
            "main": ".".join(filter(None, names)),
            "tmp": tmp,
            "memory_bytes": str(memory_bytes),
        }
        return tuple(_PLACEHOLDER.sub(lambda match: values[match[1]], part) for part in command)


def _suffix(file: str) -> str:
    return PurePosixPath(file).suffix


class Delivery(Struct, frozen=True, kw_only=True):
    """A message in hand, as an ingress took it off its bus."""

    body: bytes
    content_type: str = JSON
    content_encoding: str = ""
    """How the body is compressed: `gzip`, `zstd`, or empty."""
    tenant: str = ""
    """From the subject or the key's owner, empty where the bus says nothing."""
    lang: str = ""
    """From the subject, empty where the bus says nothing."""
    job_id: str = ""
    """From a header, empty where there is none."""
    message_id: str = ""
    """The job's id where neither a header nor the body gives one: the same each time that this message is delivered."""
    stream: bool = False
    """Whether the sender asked for output while the job runs, by a header."""
    wall_s: float | None = None
    """Wall time of each stage, from a header; the smaller of this and the job's own holds."""
    queue_ttl_s: float | None = None
    """How long it may wait for a sandbox, from a header; the smaller of this and the job's own holds."""
    retry_on: tuple[str, ...] = ()
    """Statuses with which it is started again, from a header; those of the job's own hold as well."""
    waited_s: float = 0.0
    """How much of that was over when it came: it had waited on its bus."""
    kept: bool = False
    """Its bus keeps it until it has a result: without a sandbox it is given back (Saturated), and expires when its own time is over."""
    trace: Mapping[str, str] = {}
    """W3C trace context as it came: `traceparent`, `tracestate` and `baggage`, those that there were."""
    lost: Callable[[int], None] | None = None
    """Called ahead of the result with how many pieces of output were lost because they were not taken fast enough, if any were."""


class Services(Protocol):
    """All that an ingress may ask of the daemon. It has no other door."""

    languages: Mapping[str, Language]
    """By code, those that this daemon runs."""
    sessions: Sessions | None
    """Sessions with their files and state, None where the daemon keeps none."""

    def submit(self, job: Job | Delivery) -> AsyncIterator[Event]:
        """Run a job; ends with its Result, whatever happens. Never raises for what a caller did wrong.

        Events before the result come only where the job asked to stream. Leaving the iterator early
        does not cancel the job. Cancelling the waiting task does, unless others wait for the same job.

        Two things are no result, and are raised instead: Saturated, where the queue is full, and Interrupted, where
        the daemon stops (or can't record) before the job ended. The job is not recorded as ended, and may be submitted
        again: a durable ingress naks, any other tells its caller to try again.
        """
        ...

    async def cancel(self, tenant: str, job_id: str, *, ahead: bool = False) -> Result | None:
        """Cancel a queued or running job and return its result, or an ended job's own; None where there is no such job.

        `ahead`: for a job that may still wait on a bus. No such job is recorded as cancelled too, and never runs if it comes.
        """
        ...

    async def feed(self, tenant: str, job_id: str, data: bytes, *, end: bool = False) -> None:
        """Send an interactive job of this daemon more standard input; `end` after the last of it. Waits while the job reads too slowly.

        Raises NotFound where this daemon has no such job in hand, Conflict where it had and the job has ended, Rejected where it is
        not interactive, OverLimit where more comes than is kept until it starts.
        """
        ...

    async def answer(self, tenant: str, job_id: str, call: str, answer: bytes, *, failed: bool = False) -> None:
        """Answer a call of a tool (`ToolCall`) that a job of this daemon waits for: with a result, which is JSON, or, where the tool
        `failed`, with a text that says why.

        Raises NotFound where this daemon has no such job in hand, Conflict where no such call waits, or the job has ended, Rejected
        where the job names no tools or the answer is no JSON, OverLimit where it is too long; after these two the call waits on.
        """
        ...

    async def status(self, tenant: str, job_id: str) -> str | Result | None:
        """`queued`, `running`, the result of a job that ended, or None where there is no such job."""
        ...

    def free(self) -> int:
        """How many more jobs would start, or wait only for their sandbox, if they came now."""
        ...

    async def changed(self) -> None:
        """Wait until `free()` or `draining()` may have changed."""
        ...

    def draining(self) -> bool:
        """Whether the daemon takes no more jobs."""
        ...

    def health(self) -> dict[str, Any]:
        """State of the daemon for health checks and discovery: plain data."""
        ...

    def metrics(self) -> bytes:
        """What the daemon counts, in the text format of Prometheus (`text/plain; version=0.0.4`)."""
        ...

    def happened(self, event: str) -> None:
        """Count something that went wrong on the bus: a word of the ingress's own code, never anything that came from outside."""
        ...

    async def asyncapi(self) -> dict[str, Any]:
        """The AsyncAPI document of all ingresses of this daemon that describe themselves: plain data."""
        ...


class Ingress(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """Where jobs come from and results go to. A subclass's fields are its table in runnerd.toml.

    Subclass with a tag: `class Nats(Ingress, tag="nats", frozen=True, kw_only=True)`. The docstring under a field is its
    meaning in the documentation; a unit ends its name (`_s`, `_bytes`). Each field can be set by the environment as well, as
    `RUNNERD_INGRESS_<KIND>_<FIELD>` and under the name in its `Meta(extra={"env": "API_PORT"})`; `extra={"secret": True}`
    keeps it from being shown. A field `state_dir: str = ""` that is left empty gets the daemon's directory for lasting files.
    """

    enabled: bool = True
    """False: not opened. Without any configuration `nats` and `http` are."""

    def listens(self) -> tuple[tuple[str, int], ...]:
        """Host and port of all that `open` will listen on, so that `runnerd check` can see whether it is free. Raises IngressError."""
        return ()

    def describe(self, languages: Mapping[str, Language], address: str) -> Description | None:  # noqa: ARG002 - for those that override it
        """Its addresses and messages, for the AsyncAPI document; None for an ingress that is in none. Does no I/O.

        `languages`: by code, those of the daemon. `address`: what `open` gave, empty where it is not open.
        """
        return None

    def open(self, services: Services) -> AbstractAsyncContextManager[str]:
        """Take jobs while the block is open; yields, once it does, the address for people to read.

        Leaving the block: take no more, finish what is in hand, close. Raises IngressError, naming host, port and cause.
        """
        raise NotImplementedError

    async def prepare(self, *, make: bool) -> Prepared | None:  # noqa: ARG002 - for those that override it
        """Look at what its bus has to have for it, and with `make` make what is missing; never change what is there.

        None where its bus has to have nothing. Raises IngressError.
        """
        return None

    def dead_letters(self) -> AbstractAsyncContextManager[DeadLetters] | None:
        """The dead letters of its bus, None where it keeps none. Opening them raises IngressError."""
        return None


class Content(Struct, frozen=True, kw_only=True):
    """Bytes that are read where they are wanted, and as often: a file for the workspace, a snapshot of an interpreter."""

    name: str
    """Path below /mnt/data; empty for a snapshot."""
    size: int
    """Bytes that `read` gives."""
    version: str = ""
    """Names the bytes, which never change under it; empty where nothing does."""
    read: Callable[[], AsyncIterator[bytes]]
    """The bytes in chunks. Raises StoreError, and KeyError where they are gone."""


class Workspace(Protocol):
    """What a job of a session finds beside what it brings itself, and where what it leaves goes.

    One object serves one start of a job. The executor reads `files` and `state` into the sandbox ahead of the program, and
    hands over what the program left, one thing at a time, before it gives its Result. Methods raise StoreError. What the
    chunks that they are given raise passes through them, and nothing of what they read is kept.
    """

    files: Sequence[Content]
    """Written below /mnt/data ahead of the program."""
    state: Content | None
    """The snapshot that the interpreter loads, None for a clean namespace."""
    state_bytes: int
    """The largest snapshot to take at the end, in bytes; 0 to take none."""
    state_on_error: bool = False
    """Whether one is taken of a program that failed as well."""
    state_stays: bool = False
    """Whether one that is the same as `state` need not be handed over again: `keep_state` is not called for it."""

    async def keep(self, name: str, size: int, chunks: AsyncIterator[bytes]) -> Stored | Skipped:
        """Store a file that the job wrote, or an input that it changed; says what became of it."""
        ...

    async def keep_state(self, chunks: AsyncIterator[bytes]) -> tuple[int, str]:
        """Store the snapshot of the interpreter; returns its size in bytes and its hash."""
        ...


class Sandbox(Protocol):
    """One isolated place, used for one job and then gone; unless the language is `reuse`d, and it is `kept`."""

    tenant: str
    """Whose jobs it may have served before, empty for none. Another's job costs it a rebuild first."""
    kept: bool
    """Whether the job that it ran has left it ready for another: of the same session, or the same tenant, as the language says."""

    def run(
        self,
        job: Job,
        language: Language,
        limits: Limits,
        workspace: Workspace | None = None,
        stdin: Stdin | None = None,
        tools: Tools | None = None,
    ) -> AsyncIterator[Event]:
        """Run the job; ends with its Result. `limits` has no None. Raises SandboxLost, and StoreError from `workspace`.

        Closing the iterator ends the job at once. `stdin`: what follows the job's own standard input, where it is interactive; it is
        opened once the program can read it; `tools` likewise, where the job names some. Files that the job leaves go to `workspace`,
        where there is one, else into the result.
        """
        ...

    async def lost(self) -> str:
        """Wait until the sandbox has gone away by itself; returns why."""
        ...


class Executor(Protocol):
    """Makes sandboxes: pods, or processes on this machine."""

    name: str
    level: str
    """The isolation level that was reached, found by trying."""

    def sandbox(self, language: Language) -> AbstractAsyncContextManager[Sandbox]:
        """A sandbox that stands ready; it is gone when the block ends. Raises SandboxError."""
        ...
