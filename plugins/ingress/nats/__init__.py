"""Jobs from NATS, results to each message's reply subject, and durable jobs from JetStream.

A request over core NATS is delivered at most once; `jetstream` has the jobs that are kept until they have a result.
`serving` shows the parts and their order; `run` has the path of a job, `server` the embedded nats-server.
Subjects, under the prefix `rd.v1`: `run.<tenant>.<lang>` takes a job, `ctl.<tenant>.<job>.status` and `.cancel` ask about
one, `info.langs`, `info.limits`, `info.schema` and `info.asyncapi` about the daemon; `$SRV` answers make it visible to `nats micro`.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from runnerd import Counters, DeadLetters, Description, Ingress, Language, Prepared, Services, hookimpl, nats_shown

from .jetstream import admin
from .jetstream.settings import JetStream
from .log import log
from .server import Server, address
from .serving import serving

_TOKENS = r"^[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_-]{1,64})*$"
Tenant = Annotated[str, Meta(pattern=r"^(\*|[A-Za-z0-9_-]{1,64})$")]
ReplyPrefix = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-][^\s*>$]*$", max_length=256)]


class Nats(Ingress, tag="nats", frozen=True, kw_only=True):
    """Settings of the NATS ingress."""

    url: Annotated[str, Meta(extra={"env": "NATS_URL"})] = ""
    """The server, such as nats://host:4222 or tls://host:4222; several with commas. Empty: an embedded one is started."""
    user: Annotated[str, Meta(extra={"env": "NATS_USER"})] = ""
    """User name, with `password`. The embedded server asks the same of its clients."""
    password: Annotated[str, Meta(extra={"env": "NATS_PASSWORD", "secret": True})] = ""
    """Password of `user`."""
    token: Annotated[str, Meta(extra={"env": "NATS_TOKEN", "secret": True})] = ""
    """Token, in place of `user`. The embedded server asks the same of its clients."""
    nkey_seed_file: Annotated[str, Meta(extra={"env": "NATS_NKEY_SEED_FILE"})] = ""
    """File with the seed of an nkey. Needs `pip install 'runnerd[nkeys]'`."""
    creds_file: Annotated[str, Meta(extra={"env": "NATS_CREDS_FILE"})] = ""
    """Credentials file, JWT and seed. Needs `pip install 'runnerd[nkeys]'`."""
    tls_ca: Annotated[str, Meta(extra={"env": "NATS_TLS_CA"})] = ""
    """File with the certificates that the server's own is checked against. Empty: those of the machine."""
    tls_cert: Annotated[str, Meta(extra={"env": "NATS_TLS_CERT"})] = ""
    """File with the certificate that we show the server, for servers that ask for one."""
    tls_key: Annotated[str, Meta(extra={"env": "NATS_TLS_KEY"})] = ""
    """File with its key. Empty: in `tls_cert` as well."""

    listen: Annotated[str, Meta(extra={"env": "NATS_LISTEN"})] = "127.0.0.1:4222"
    """Where the embedded server listens, address:port; port 0 takes a free one. Beyond loopback it needs `user` or `token`."""
    state_dir: str = ""
    """Directory of the embedded server's files, in `nats` below it; set from the daemon's own. Empty: ~/.local/state/runnerd."""
    server: str = ""
    """Program of the embedded server. Empty: the nats-server that came with runnerd, else the one on PATH."""
    server_payload_bytes: Annotated[int, Meta(ge=64 << 10, le=64 << 20)] = 8 << 20
    """Largest message of the embedded server, headers and body. 8 MiB is the most that NATS advises; its own default is 1."""
    server_log_bytes: Annotated[int, Meta(ge=64 << 10)] = 16 << 20
    """Size at which the embedded server's log file is put aside; three of them are kept."""
    server_start_s: Annotated[float, Meta(gt=0)] = 30.0
    """How long the embedded server may take to start. A big store is read first."""
    server_stop_s: Annotated[float, Meta(gt=0)] = 5.0
    """How long it may take to end before it is killed, and how long we wait for another daemon's to end before we start ours."""
    server_restart_s: Annotated[float, Meta(gt=0)] = 5.0
    """Longest pause before it is started again after a crash; the first is 0.2 s, and each is twice the one before."""

    prefix: Annotated[str, Meta(pattern=_TOKENS, max_length=128)] = "rd.v1"
    """First tokens of all subjects."""
    queue: Annotated[str, Meta(pattern=_TOKENS, max_length=128)] = "rd"
    """Queue group that daemons share the work in."""
    tenants: Annotated[tuple[Tenant, ...], Meta(min_length=1)] = ("*",)
    """Whose subjects are served; `*` is everybody's. Who may publish where is the server's to check, by its permissions."""
    exact: bool = False
    """Subscribe to this daemon's own languages only, where daemons with different languages share a queue group.

    With the default one subscription takes all languages, and an unknown one is answered with the list of those known; with
    `exact` a job reaches only daemons that can run it, and its sender gets `no responders` where there is none."""
    reply_prefixes: Annotated[tuple[ReplyPrefix, ...], Meta(min_length=1)] = ("_INBOX.",)
    """Where answers may go. Any other reply subject is refused: it could name a stream's API or another service."""

    prefetch: Annotated[int, Meta(ge=0, le=10_000)] = 8
    """Jobs in hand beyond those that start at once, so that a free sandbox need not wait for the bus. More hides idle daemons."""
    questions: Annotated[int, Meta(ge=1)] = 256
    """Questions about jobs (status, cancel) in hand at once; more are refused (503)."""
    retry_after_ms: Annotated[int, Meta(ge=0)] = 1000
    """When a refused sender is told to try again."""
    body_bytes: Annotated[int, Meta(ge=1024)] = 8 << 20
    """Largest body of a job. The server's own limit holds as well."""
    waiting_messages: Annotated[int, Meta(ge=1)] = 65_536
    """Messages that may wait to be looked at, per subscription. More are dropped and counted: their senders time out."""
    waiting_bytes: Annotated[int, Meta(ge=1 << 20)] = 64 << 20
    """Bytes of those."""
    pending_bytes: Annotated[int, Meta(ge=1 << 20)] = 32 << 20
    """Bytes of answers that may wait for the server, per connection. With more, answers wait in their jobs."""
    stream_pending_bytes: Annotated[int, Meta(ge=64 << 10)] = 4 << 20
    """Bytes of output of running jobs that may wait for the server. More is dropped and counted; the result has it all the same."""

    connect_s: Annotated[float, Meta(gt=0)] = 10.0
    """How long the server may take to answer: at the start, and for every round trip while draining."""
    rebuild_s: Annotated[float, Meta(gt=0)] = 5.0
    """Longest pause between two tries to replace a client that the server closed for good; the first is 0.2 s."""
    patience_s: Annotated[float, Meta(gt=0)] = 60.0
    """How long an answer waits while there is no connection. Then it is lost, and counted; asking for the status still has it.

    As long is a piece of durable output tried again where the server is there, and does not store it."""
    drain_s: Annotated[float, Meta(ge=0)] = 60.0
    """How long jobs in hand may go on when the daemon stops, should the daemon's own grace be longer or have none."""

    jetstream: JetStream = JetStream()
    """Durable jobs, kept by JetStream until they have a result."""

    def __repr__(self) -> str:
        return f"Nats(url={nats_shown(self.url) if self.url else 'embedded'!r}, prefix={self.prefix!r})"  # never the password

    def __post_init__(self) -> None:
        if bool(self.user) != bool(self.password):
            raise ValueError("user and password: give both, or neither")
        if self.tls_key and not self.tls_cert:
            raise ValueError("tls_key: needs tls_cert")

    def listens(self) -> tuple[tuple[str, int], ...]:
        """See `Ingress.listens`."""
        return () if self.url else (address(self.listen),)

    def describe(self, languages: Mapping[str, Language], address: str) -> Description:
        """See `Ingress.describe`."""
        from . import description  # noqa: PLC0415 - only those who ask for it need it

        return description.describe(self, languages, address)

    @asynccontextmanager
    async def open(self, services: Services) -> AsyncGenerator[str]:
        """Take jobs while the block is open; yields the server's URL. Raises IngressError, naming the server and the cause."""
        counters = Counters(log, services.happened)
        async with AsyncExitStack() as stack:
            url = self.url or await stack.enter_async_context(self._embedded().open(counters))
            await stack.enter_async_context(serving(self, url, services, counters))
            yield nats_shown(url)

    async def prepare(self, *, make: bool) -> Prepared | None:
        """See `Ingress.prepare`: the streams and consumers of durable jobs."""
        return await admin.prepare(self, make=make)

    def dead_letters(self) -> AbstractAsyncContextManager[DeadLetters] | None:
        """See `Ingress.dead_letters`."""
        return None if self.jetstream.streams == "off" else admin.dead_letters(self)

    def _embedded(self) -> Server:
        state = Path(self.state_dir or "~/.local/state/runnerd").expanduser()
        return Server(
            listen=self.listen,
            directory=state.absolute() / "nats",
            program=self.server,
            user=self.user,
            password=self.password,
            token=self.token,
            payload_bytes=self.server_payload_bytes,
            log_bytes=self.server_log_bytes,
            start_s=self.server_start_s,
            stop_s=self.server_stop_s,
            restart_s=self.server_restart_s,
        )


@hookimpl
def register_ingress() -> list[type[Ingress]]:
    """The ingress of kind `nats`."""
    return [Nats]
