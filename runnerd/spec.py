"""What the parts of runnerd agree on: Language, Ingress, Services, Store, Executor, Sandbox.

Plugins describe themselves with these types; nothing here does any I/O.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from msgspec import Struct

from .job import JSON, Event, Job, Limits, Result


class Install(Struct, frozen=True, kw_only=True):
    """How to install a language's tool chain on a machine of its own."""

    debian: tuple[str, ...] = ()
    npm: tuple[str, ...] = ()


class Language(Struct, frozen=True, kw_only=True):
    """How to compile and run one language: data, nothing else.

    In `compile` and `run`, `{file}` is the program's file name, `{stem}` that name without its suffix;
    arguments of the job are appended to `run`. Both are started in the directory of the program, `/mnt/data`, without a shell.
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


class Delivery(Struct, frozen=True, kw_only=True):
    """A message in hand, as an ingress took it off its bus."""

    body: bytes
    content_type: str = JSON
    tenant: str = ""
    """From the subject or the key's owner, empty where the bus says nothing."""
    lang: str = ""
    """From the subject, empty where the bus says nothing."""
    job_id: str = ""
    """From a header, empty where there is none."""
    stream: bool = False
    """Whether the sender asked for output while the job runs, by a header."""


class Services(Protocol):
    """All that an ingress may ask of the daemon. It has no other door."""

    languages: Mapping[str, Language]
    """By code, those that this daemon runs."""

    def submit(self, job: Job | Delivery) -> AsyncIterator[Event]:
        """Run a job; ends with its Result, whatever happens. Never raises for what a caller did wrong.

        Events before the result come only where the job asked to stream. Leaving the iterator early
        does not cancel the job. Cancelling the waiting task does, unless others wait for the same job.
        """
        ...

    async def cancel(self, tenant: str, job_id: str) -> Result | None:
        """Cancel a queued or running job and return its result, or an ended job's own; None where there is no such job."""
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


class Ingress(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """Where jobs come from and results go to. A subclass's fields are its table in runnerd.toml.

    Subclass with a tag: `class Nats(Ingress, tag="nats", frozen=True, kw_only=True)`.
    """

    def open(self, services: Services) -> AbstractAsyncContextManager[str]:
        """Take jobs while the block is open; yields, once it does, the address for people to read.

        Leaving the block: take no more, finish what is in hand, close. Raises IngressError, naming host, port and cause.
        """
        raise NotImplementedError


class KeyValues(Protocol):
    """A key-value store. Keys are `/`-joined tokens; values are bytes; a revision is an opaque string."""

    async def get(self, key: str) -> tuple[bytes, str] | None:
        """Value and revision, None where there is none or it expired."""
        ...

    async def put(self, key: str, value: bytes, ttl_s: float | None = None) -> str:
        """Write, whatever was there; returns the new revision."""
        ...

    async def put_if_absent(self, key: str, value: bytes, ttl_s: float | None = None) -> tuple[bool, bytes, str]:
        """Write if there is nothing. Returns whether it was written, and what stands there now with its revision."""
        ...

    async def compare_and_set(self, key: str, revision: str, value: bytes, ttl_s: float | None = None) -> str | None:
        """Write if the revision still stands; returns the new one, None where another was faster."""
        ...

    async def delete(self, key: str) -> None:
        """Remove; nothing happens where there is nothing."""
        ...

    async def expire(self, most: int = 1000) -> int:
        """Remove at most so many expired entries; returns how many."""
        ...


class Blobs(Protocol):
    """A blob store: immutable bytes under keys of `/`-joined tokens."""

    async def put(self, key: str, chunks: AsyncIterator[bytes], content_type: str = "application/octet-stream") -> int:
        """Store a blob; it appears whole or not at all. Returns its size in bytes."""
        ...

    def get(self, key: str) -> AsyncIterator[bytes]:
        """The blob's bytes in chunks. Raises KeyError where there is none."""
        ...

    async def delete(self, key: str) -> None:
        """Remove; nothing happens where there is nothing."""
        ...


class Store(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """A key-value or blob store. A subclass's fields are its table in runnerd.toml.

    A store implements `open_kv`, `open_blobs` or both. Both raise StoreError, naming where and why.
    """

    def open_kv(self) -> AbstractAsyncContextManager[KeyValues]:
        """The store as a key-value store, while the block is open."""
        raise NotImplementedError

    def open_blobs(self) -> AbstractAsyncContextManager[Blobs]:
        """The store as a blob store, while the block is open."""
        raise NotImplementedError


class Sandbox(Protocol):
    """One isolated place, used for one job and then gone."""

    tenant: str
    """Whose jobs it may have served before, empty for none. Another's job costs it a rebuild first."""

    def run(self, job: Job, language: Language, limits: Limits) -> AsyncIterator[Event]:
        """Run the job; ends with its Result. `limits` has no None. Raises SandboxLost.

        Closing the iterator ends the job at once.
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
