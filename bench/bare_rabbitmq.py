"""`python -m bench.bare_rabbitmq URL SLOTS RESULT`: what a consumer costs that does nothing but its confirms, with aio-pika alone.

Each message: the result published to its `reply_to` and confirmed, then the ack. Says `ready`; its input's end ends it.
"""

import asyncio
import sys

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

QUEUE = "bench.jobs"


async def main(url: str, slots: int, result: bytes) -> None:
    """Take jobs until the input ends."""
    async with await aio_pika.connect(url) as connection:
        consuming = await connection.channel(publisher_confirms=False)
        await consuming.set_qos(prefetch_count=slots)
        publishing = await connection.channel(publisher_confirms=True)
        queue = await consuming.declare_queue(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})

        async def handle(message: AbstractIncomingMessage) -> None:
            answer = aio_pika.Message(
                result,
                headers={"Rd-Job-Id": message.message_id},
                correlation_id=message.correlation_id,
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            )
            await publishing.default_exchange.publish(answer, message.reply_to or "")
            await message.ack()

        await queue.consume(handle)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3].encode()))
