"""`python -m bench.bare_jetstream URL SLOTS RESULT NAME`: what a worker costs that does nothing but its acks, with nats-py alone.

Each message: the result published to a stream with its ack, the reply, `ack_sync`. So many at once as it fetches. Its streams are as
those of the daemon, and take `NAME.job.>`. Says `ready`; its input's end ends it.
"""

import asyncio
import sys

import nats
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig, DiscardPolicy, RetentionPolicy, StreamConfig
from nats.js.client import JetStreamContext


async def prepare(jetstream: JetStreamContext, name: str) -> None:
    """Make the streams."""
    await jetstream.add_stream(
        StreamConfig(
            name=f"{name}_JOBS",
            subjects=[f"{name}.job.>"],
            retention=RetentionPolicy.WORK_QUEUE,
            discard=DiscardPolicy.NEW,
            max_bytes=1 << 30,
        )
    )
    await jetstream.add_stream(
        StreamConfig(
            name=f"{name}_RES",
            subjects=[f"{name}.res.>"],
            max_msgs_per_subject=1,
            discard=DiscardPolicy.NEW,
            discard_new_per_subject=True,
            allow_direct=True,
            max_age=86_400,
        )
    )


async def main(url: str, slots: int, result: bytes, name: str) -> None:
    """Take jobs until the input ends."""
    client = await nats.connect(url, connect_timeout=60)
    jetstream = client.jetstream(timeout=60)
    await prepare(jetstream, name)
    config = ConsumerConfig(ack_wait=15, max_ack_pending=10_000)
    jobs = await jetstream.pull_subscribe(f"{name}.job.>", durable="bench", stream=f"{name}_JOBS", config=config)

    async def handle(message: Msg) -> None:
        headers = message.headers or {}
        job = headers["Nats-Msg-Id"]
        await jetstream.publish(f"{name}.res.{job}", result, headers={"Nats-Msg-Id": job})
        await client.publish(headers["Rd-Reply-To"], result, headers={"Rd-Job-Id": job})
        await message.ack_sync(timeout=60)

    async def work() -> None:
        while True:
            try:
                messages = await jobs.fetch(slots, timeout=5)
            except TimeoutError:  # the library raises its own and that of Python
                continue
            await asyncio.gather(*map(handle, messages))

    working = asyncio.create_task(work())
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    working.cancel()
    await client.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3].encode(), sys.argv[4]))
