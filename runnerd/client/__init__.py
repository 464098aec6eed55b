"""A client for programs: submits jobs over NATS or RabbitMQ, with the semantics of the bus.

    async with connect("nats://127.0.0.1:4222") as client:
        result = await client.run(Job(lang="py", code="print('hi')"))

`connect` asks a daemon directly; `connect_jetstream` and `connect_rabbitmq` have the bus keep a job until it has a result. What
they give is the same `Client`. Whatever a job's own fault is comes back as a Result. A job has an id before it is first sent;
when an answer does not come, the client asks what became of it and, where nobody knows it, sends it again under the same id.
So it runs once.
"""

import asyncio

from ..job import Job, Result
from .answers import Tool, ToolError
from .client import Client
from .jetstream import connect_jetstream
from .patience import LanguageInfo, Patience
from .rabbitmq import connect_rabbitmq
from .request_reply import URL, WAITING_BYTES, connect
from .submission import Submission

__all__ = [
    "URL",
    "WAITING_BYTES",
    "Client",
    "LanguageInfo",
    "Patience",
    "Submission",
    "Tool",
    "ToolError",
    "connect",
    "connect_jetstream",
    "connect_rabbitmq",
    "run",
]


def run(job: Job, url: str = URL, *, tenant: str = "default") -> Result:
    """Run one job and wait for its result, in a program that has no event loop. Raises what `connect` and `Client.run` raise."""

    async def once() -> Result:
        async with connect(url, tenant=tenant) as client:
            return await client.run(job)

    return asyncio.run(once())
