"""What becomes of a job's output over RabbitMQ: confirmed piece by piece whatever breaks, or left out altogether."""

import asyncio

from aio_pika.abc import AbstractIncomingMessage

from rabbitmq_bench import Client, bench, client, held, result_of
from rabbitmq_fixture import Broker
from runnerd import Job, encode


async def listen(c: Client, name: str) -> None:
    """A durable queue of all events."""
    queue = await c.channel.declare_queue(name, durable=True)
    await queue.bind("rd.events", "evt.acme.#")


async def taken(c: Client, name: str) -> list[AbstractIncomingMessage]:
    """All that is in a queue."""
    queue = await c.channel.get_queue(name)
    found = []
    while (message := await queue.get(no_ack=True, fail=False)) is not None:
        found.append(message)
    return found


async def test_durable_events_are_persistent_and_all_there_before_the_result(rabbitmq: Broker) -> None:
    async with bench(rabbitmq) as b:
        await listen(b.client, "all")
        msg = await b.client.run("stream 20 5", message_id="one", headers={"rd-output": "durable"})
        events = await taken(b.client, "all")
        assert [event.headers["Rd-Seq"] for event in events] == list(range(1, 22))
        assert ({event.delivery_mode for event in events}, events[0].routing_key) == ({2}, "evt.acme.one.started")
        assert (msg.headers["Rd-Seq"], msg.headers["Rd-Dropped"]) == (22, 0)


async def test_durable_events_outlive_lost_connections(rabbitmq: Broker) -> None:
    async with bench(rabbitmq) as b:
        await listen(b.client, "all")
        await b.client.channel.declare_queue("rd.reply.durable", durable=True)
        body = encode(Job(code="stream 600 5"))
        await b.client.send(body, message_id="one", reply_to="rd.reply.durable", headers={"rd-output": "durable"})
        while (await rabbitmq.queue(b.vhost, "all"))[0] < 10:
            await asyncio.sleep(0)
        await rabbitmq.close_connections()
        async with client(b.url) as c:
            await b.until("rd.reply.durable", ready=1)
            (result,) = await taken(c, "rd.reply.durable")
            numbers = [event.headers["Rd-Seq"] for event in await taken(c, "all")]
            assert (sorted(set(numbers)), result.headers["Rd-Dropped"]) == (list(range(1, 602)), 0)
            assert len(b.services.deliveries) == 1


async def test_a_result_does_not_wait_for_an_exchange_that_is_gone(rabbitmq: Broker) -> None:
    async with bench(rabbitmq) as b:
        await (await b.client.channel.get_exchange("rd.events")).delete()
        msg = await b.client.run("stream 20 5", headers={"rd-output": "durable"})
        assert (result_of(msg).status, msg.headers["Rd-Seq"], msg.headers["Rd-Dropped"]) == ("ok", 22, 21)


async def test_no_output_but_in_the_record(rabbitmq: Broker) -> None:
    async with bench(rabbitmq, events=True) as b:
        await listen(b.client, "all")
        body = encode(Job(code="big 10", stream=True))
        correlation = await b.client.send(body, message_id="one", headers={"rd-output": "none"})
        result = result_of(await b.client.answer(correlation))
        assert (result.stdout, result.stderr, result.stdout_truncated, result.stderr_truncated) == ("", "", True, True)
        assert len(b.client.answers(correlation)) == 1
        (event,) = await taken(b.client, "all")
        assert result_of(event) == result
        assert b.services.results["acme", "one"].stdout == "x" * 10
        await held(lambda: not b.services.running, "it is over")
