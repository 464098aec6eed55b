"""RabbitMQ: a queue keeps a job until it has a result. Needs `pip install 'runnerd[rabbitmq]'`."""

import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from importlib.util import find_spec

from ..errors import IngressError
from .client import Client
from .patience import Patience

AMQP_URL = "amqp://127.0.0.1:5672"


@asynccontextmanager
async def connect_rabbitmq(
    url: str = AMQP_URL,
    *,
    tenant: str = "default",
    cls: str = "std",
    prefix: str = "rd",
    tls: ssl.SSLContext | None = None,
    headers: Mapping[str, str] | None = None,
    patience: Patience = Patience(),  # noqa: B008 - frozen
) -> AsyncGenerator[Client]:
    """A client of durable jobs, while the block is open: a job is kept by the broker, whatever becomes of us and of daemons.

    `url` has user, password and virtual host; several nodes with commas, the first that answers is taken. `cls` is the
    priority class; `headers` go with each job: `{"rd-queue-ttl-ms": "60000"}`. A lost connection is made again, and what
    has no result yet is sent again under its id. Raises IngressError, naming the broker and the cause.
    """
    if find_spec("aio_pika") is None:
        raise IngressError("the RabbitMQ client needs the package aio-pika: pip install 'runnerd[rabbitmq]'")
    from .queues import open_bus  # noqa: PLC0415 - only here, so that the library is needed by those who use it

    async with open_bus(url, tls, prefix=prefix, cls=cls, headers=headers or {}, patience=patience) as bus:
        yield Client(bus, tenant=tenant, patience=patience)
