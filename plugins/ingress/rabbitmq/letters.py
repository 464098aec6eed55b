"""The dead letters of a RabbitMQ: looked at without taking them, and submitted again."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from aio_pika import Message
from aio_pika.abc import AbstractIncomingMessage
from aio_pika.exceptions import AMQPError

from runnerd import DeadLetter, DeadLetters, IngressError

from .credentials import places
from .link import Link, open_link, said
from .outcome import REASON_HEADERS, encodable
from .serving import topology_of
from .topology import Topology

if TYPE_CHECKING:
    from . import RabbitMq

_ANSWER_S = 30.0


class Letters:
    """Each look takes all messages of the queue in hand, on a channel of its own, and closing it gives them back in their order."""

    def __init__(self, link: Link, topology: Topology) -> None:
        self._link = link
        self._topology = topology

    async def all(self) -> AsyncIterator[DeadLetter]:
        """See `DeadLetters.all`."""
        async with self._taken() as messages:
            async for message in messages:
                yield self._read(message)

    async def get(self, number: str) -> DeadLetter | None:
        """See `DeadLetters.get`."""
        async for letter in self.all():
            if letter.number == number:
                return letter
        return None

    async def replay(self, letter: DeadLetter, job_id: str, body: bytes) -> None:
        """See `DeadLetters.replay`."""
        async with self._taken() as messages:
            async for message in messages:
                if self._read(message).number == letter.number:
                    await self._submit(message, letter, job_id, body)
                    await message.ack()
                    return
        raise IngressError(f"RabbitMQ: there is no dead letter {letter.number} any more")

    async def _submit(self, message: AbstractIncomingMessage, letter: DeadLetter, job_id: str, body: bytes) -> None:
        own = {name: value for name, value in message.headers.items() if name not in REASON_HEADERS and encodable(name, value)}
        copy = Message(
            body,
            headers=own | {"rd-job-id": job_id},
            content_type=message.content_type,
            message_id=job_id,
            correlation_id=message.correlation_id,
            reply_to=message.reply_to,
            delivery_mode=2,
        )
        try:
            async with asyncio.timeout(_ANSWER_S), self._link.apart() as channel:
                exchange = await channel.get_exchange(self._topology.jobs, ensure=False)
                await exchange.publish(copy, letter.address)
        except (AMQPError, TimeoutError) as error:
            raise IngressError(f"RabbitMQ: dead letter {letter.number} can't be submitted again: {said(error)}") from None

    @asynccontextmanager
    async def _taken(self) -> AsyncGenerator[AsyncIterator[AbstractIncomingMessage]]:
        try:
            async with self._link.apart(consuming=True) as channel:
                queue = await channel.get_queue(self._topology.letters)

                async def messages() -> AsyncIterator[AbstractIncomingMessage]:
                    for _ in range(queue.declaration_result.message_count or 0):
                        message = await queue.get(fail=False, timeout=_ANSWER_S)
                        if message is None:
                            return
                        yield message

                yield messages()
        except (AMQPError, TimeoutError) as error:
            raise IngressError(f"RabbitMQ: {self._topology.letters}: {said(error)}") from None

    def _read(self, message: AbstractIncomingMessage) -> DeadLetter:
        headers: Mapping[str, Any] = message.headers
        reason, address = _why(headers), _text(headers, "Rd-Routing-Key") or _text_of_death(headers, "routing-keys") or message.routing_key
        found = self._topology.address(address or "", self._topology.queue_of(""))
        job_id = _text(headers, "Rd-Job-Id") or message.message_id or ""
        return DeadLetter(
            number=_number(message, job_id),
            tenant=found.tenant if found else "",
            lang=found.lang if found else "",
            job_id=job_id,
            reason=reason,
            starts=int(_text(headers, "Rd-Attempts") or 0),
            died=_text(headers, "Rd-Died") or "",
            address=address or "",
            content_type=message.content_type or "",
            content_encoding=message.content_encoding or "",
            headers={name: str(value) for name, value in headers.items() if not name.startswith("x-")},
            body=message.body,
        )


def _number(message: AbstractIncomingMessage, job_id: str) -> str:
    """Queues number nothing: a digest of what makes this letter this one."""
    text = "\0".join((job_id, _text(message.headers, "Rd-Died"), message.routing_key or "", message.correlation_id or "")).encode()
    return blake2b(text + message.body, digest_size=6).hexdigest()


def _why(headers: Mapping[str, Any]) -> str:
    """Our own reason, else the broker's: of what we never saw."""
    return _text(headers, "Rd-Dead-Reason") or f"the broker: {_text(headers, 'x-first-death-reason') or 'unknown'}"


def _text(headers: Mapping[str, Any], name: str) -> str:
    value = headers.get(name)
    return str(value) if isinstance(value, (str, int)) else ""


def _text_of_death(headers: Mapping[str, Any], name: str) -> str:
    """What the broker wrote of the first time that it gave the message up."""
    deaths: Any = headers.get("x-death")
    first: Any = deaths[-1] if isinstance(deaths, list) and deaths else {}
    keys: Any = first.get(name) if isinstance(first, dict) else None
    return str(keys[0]) if isinstance(keys, list) and keys else ""


@asynccontextmanager
async def open_letters(settings: "RabbitMq") -> AsyncGenerator[DeadLetters]:
    """The dead letters, while the block is open. Raises IngressError."""
    async with open_link(places(settings), connect_s=settings.connect_s) as link:
        yield Letters(link, topology_of(settings))
