"""Jobs from RabbitMQ queues, results to each message's `reply_to`: a job is kept by the broker until its result is recorded.

`serving` shows the parts and their order; `run` has the path of a job, `link` and `bus` what connects us to the broker,
`topology` the exchanges and queues. Routing keys, on the exchange `rd.jobs`: `job.<tenant>.<class>.<lang>`; on `rd.ctl`:
`ctl.<tenant>.<job>.status` and `….cancel` ask about a job, `stdin.<tenant>.<job>` and `tool.<tenant>.<job>.<call>` speak to it.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.util import find_spec
from typing import Annotated, Literal

from msgspec import Meta

from runnerd import DeadLetters, Description, Ingress, IngressError, Language, Prepared, Services, hookimpl

from .shown import shown

Class = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,32}$")]
Prefix = Annotated[str, Meta(min_length=1, max_length=127)]
DelayS = Annotated[int, Meta(ge=1, le=86_400)]


class RabbitMq(Ingress, tag="rabbitmq", frozen=True, kw_only=True):
    """Settings of the RabbitMQ ingress. Needs `pip install 'runnerd[rabbitmq]'`."""

    url: Annotated[str, Meta(extra={"env": "RABBITMQ_URL"})] = "amqp://127.0.0.1:5672"
    """The broker, amqp://host:5672/vhost or amqps://host:5671/vhost; several nodes with commas, the first that answers is taken."""
    user: Annotated[str, Meta(extra={"env": "RABBITMQ_USER"})] = ""
    """User name. Empty: of the URL, else guest."""
    password: Annotated[str, Meta(extra={"env": "RABBITMQ_PASSWORD", "secret": True})] = ""
    """Password of the user, or an OAuth 2 token. Empty: of the URL, else guest."""
    password_file: Annotated[str, Meta(extra={"env": "RABBITMQ_PASSWORD_FILE"})] = ""
    """File with the password or token in place of `password`. It is read for each connection, so it may be changed."""
    auth: Literal["plain", "external"] = "plain"
    """`external`: the broker takes our certificate for our name, by its plugin rabbitmq_auth_mechanism_ssl."""
    tls_ca: Annotated[str, Meta(extra={"env": "RABBITMQ_TLS_CA"})] = ""
    """File with the certificates that the broker's own is checked against, for amqps. Empty: those of the machine."""
    tls_cert: Annotated[str, Meta(extra={"env": "RABBITMQ_TLS_CERT"})] = ""
    """File with the certificate that we show the broker, for brokers that ask for one."""
    tls_key: Annotated[str, Meta(extra={"env": "RABBITMQ_TLS_KEY"})] = ""
    """File with its key. Empty: in `tls_cert` as well."""
    vhost: Annotated[str, Meta(extra={"env": "RABBITMQ_VHOST"}, max_length=255)] = ""
    """Virtual host. Empty: of the URL, else `/`."""
    heartbeat_s: Annotated[int, Meta(ge=1, le=3600)] = 15
    """A connection of which nothing was heard for three times so long is given up, by either side."""

    topology: Literal["verify", "ensure", "none"] = "verify"
    """`verify`: exchanges and queues have to be there (`runnerd bus init` makes them). `ensure`: those that are missing are made.
    `none`: nobody looks. What is there otherwise than it should be is reported and stays as it is."""
    prefix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$", max_length=64)] = "rd"
    """First part of the names of exchanges and queues."""
    classes: Annotated[tuple[Class, ...], Meta(min_length=1, max_length=8)] = ("hi", "std", "low")
    """Priority classes whose queues are consumed."""
    retry_delays_s: Annotated[tuple[DelayS, ...], Meta(min_length=1, max_length=16)] = (1, 10, 60, 600)
    """After how many seconds a job comes again that runnerd could not run: the first time, the second, and so on. One queue each."""
    reply_prefixes: Annotated[tuple[Prefix, ...], Meta(min_length=1)] = ("amq.rabbitmq.reply-to.", "amq.gen-", "rd.reply.")
    """First letters of queues that answers may go to. A job with any other `reply_to` is not run, and becomes a dead letter."""
    events: bool = False
    """Publish a copy of every result on the exchange of events, for whoever binds a queue to it."""
    control: bool = True
    """Answer questions about jobs (status, cancel), and hear what is said to them (standard input, answers to calls of tools)."""

    prefetch: Annotated[int, Meta(ge=0, le=65_535)] = 0
    """Messages of each class in hand. 0: as many as the daemon has slots."""
    consumer_priority: Annotated[int, Meta(ge=-1000, le=1000)] | None = None
    """The broker serves consumers of a higher priority first, while they have room. None: all the same."""
    consumer_timeout_s: Annotated[float, Meta(ge=2)] = 1800.0
    """How long the broker lets a message be in hand (its `consumer_timeout`). Jobs may take longer: they are renewed at half of it."""
    questions: Annotated[int, Meta(ge=1)] = 256
    """Questions about jobs in hand at once, and as many pieces of input and answers; more are dropped and counted."""
    said_bytes: Annotated[int, Meta(ge=1 << 20)] = 64 << 20
    """Bytes of input and answers in hand at once; more are refused (503)."""
    body_bytes: Annotated[int, Meta(ge=1024)] = 8 << 20
    """Largest body of a job. The broker's own limit holds as well."""
    message_bytes: Annotated[int, Meta(ge=16_384)] = 16 << 20
    """Largest message that the broker takes, by its max_message_size. A larger result is cut, and says so."""

    connect_s: Annotated[float, Meta(gt=0)] = 10.0
    """How long the broker may take to answer: at the start, and when a connection closes."""
    rebuild_s: Annotated[float, Meta(gt=0)] = 5.0
    """Longest pause between two tries to connect again; the first is 0.2 s."""
    patience_s: Annotated[float, Meta(gt=0)] = 300.0
    """How long a result waits for the broker to take it. Then its job is given back, and answered from its record when it comes again."""
    stall_s: Annotated[float, Meta(gt=0)] = 5.0
    """How long a piece of output of a running job waits. Then it is dropped and counted; the result has it all the same."""
    drain_s: Annotated[float, Meta(ge=0)] = 60.0
    """How long jobs in hand may go on when the daemon stops, should the daemon's own grace be longer or have none."""

    def __repr__(self) -> str:
        return f"RabbitMq(url={shown(self.url)!r}, prefix={self.prefix!r})"  # never the password

    def __post_init__(self) -> None:
        if self.password and self.password_file:
            raise ValueError("password and password_file: give one of them")
        if self.tls_key and not self.tls_cert:
            raise ValueError("tls_key: needs tls_cert")
        if self.auth == "external" and not self.tls_cert:
            raise ValueError("auth: `external` needs tls_cert")

    def describe(self, languages: Mapping[str, Language], address: str) -> Description:
        """See `Ingress.describe`. Raises IngressError."""
        _check_library()
        from . import description  # noqa: PLC0415

        return description.describe(self, languages, address)

    @asynccontextmanager
    async def open(self, services: Services) -> AsyncGenerator[str]:
        """Take jobs while the block is open; yields the broker's URL. Raises IngressError, naming the broker and the cause."""
        _check_library()
        from .serving import serving  # noqa: PLC0415 - only here, so that this module describes itself without the library

        async with serving(self, services):
            yield shown(self.url)

    async def prepare(self, *, make: bool) -> Prepared:
        """See `Ingress.prepare`: exchanges and queues. Raises IngressError."""
        _check_library()
        from .setup import prepared  # noqa: PLC0415

        return await prepared(self, make=make)

    def dead_letters(self) -> AbstractAsyncContextManager[DeadLetters]:
        """See `Ingress.dead_letters`. Raises IngressError."""
        _check_library()
        from .letters import open_letters  # noqa: PLC0415

        return open_letters(self)


def _check_library() -> None:
    if find_spec("aio_pika") is None:
        raise IngressError("ingress.rabbitmq: needs the package aio-pika: pip install 'runnerd[rabbitmq]'")


@hookimpl
def register_ingress() -> list[type[Ingress]]:
    """The ingress of kind `rabbitmq`."""
    return [RabbitMq]
