"""Brokers that die or take nothing, connections that are cut, queues that go, daemons that stop: no job is lost, none runs twice."""

import asyncio
from pathlib import Path

import pytest
from runnerd_plugins.ingress.rabbitmq import RabbitMq

from fake_services import FakeServices
from rabbitmq_bench import JOBS, Bench, bench, client, held, opened, result_of
from rabbitmq_fixture import Broker
from runnerd import IngressError, Job, encode


async def waiting(b: Bench, **properties: object) -> str:
    """Submit a job that waits."""
    before = len(b.services.running)
    correlation = await b.client.send(encode(Job(code="wait")), **{"message_id": "in-hand", **properties})
    await held(lambda: len(b.services.running) > before, "the job runs")
    return correlation


@pytest.mark.parametrize("properties", [{}, {"message_id": None}, {"message_id": None, "correlation_id": None}], ids=["id", "rpc", "bare"])
async def test_lost_connections_lose_no_job_in_hand_and_none_runs_twice(rabbitmq: Broker, properties: dict[str, None]) -> None:
    async with bench(rabbitmq) as b:
        queue = await b.client.channel.declare_queue("rd.reply.durable", durable=True)
        await waiting(b, reply_to="rd.reply.durable", **properties)
        for _ in range(2):
            await rabbitmq.close_connections()
            await b.until(ready=0, unacked=1, consumers=1)
        async with client(b.url) as c:
            b.services.release()
            queue = await c.channel.get_queue("rd.reply.durable")
            await b.until(ready=0, unacked=0)
            assert result_of(await queue.get(no_ack=True)).status == "ok"
            assert await queue.get(no_ack=True, fail=False) is None, "answered twice"
            assert len(b.services.deliveries) == 1
            assert result_of(await c.run("echo on")).stdout == "on"


async def test_a_killed_broker_loses_no_job_in_hand(rabbitmq: Broker) -> None:
    async with bench(rabbitmq) as b:
        await b.client.channel.declare_queue("rd.reply.durable", durable=True)
        await waiting(b, reply_to="rd.reply.durable")
        await rabbitmq.kill()
        b.services.release()
        await held(lambda: not b.services.running, "the job is over, and its result waits for the broker")
        await rabbitmq.start()
        await b.until(ready=0, unacked=0, consumers=1)
        async with client(b.url) as c:
            queue = await c.channel.get_queue("rd.reply.durable")
            assert result_of(await queue.get(no_ack=True)).id == "in-hand"
            assert await queue.get(no_ack=True, fail=False) is None, "answered twice"
            assert len(b.services.deliveries) == 1
            assert result_of(await c.run("echo on")).stdout == "on"


async def test_an_ack_that_was_lost_is_made_good_without_another_answer(rabbitmq: Broker) -> None:
    async with bench(rabbitmq) as b:
        await b.client.channel.declare_queue("rd.reply.durable", durable=True)
        correlation = await waiting(b, reply_to="rd.reply.durable")
        assert correlation
        await rabbitmq.alarm(on=True)  # the answer waits
        b.services.release()
        await held(lambda: not b.services.running, "the job is over")
        await rabbitmq.close_connections()
        await rabbitmq.alarm(on=False)
        await b.until(ready=0, unacked=0, consumers=1)
        async with client(b.url) as c:
            queue = await c.channel.get_queue("rd.reply.durable")
            assert queue.declaration_result.message_count == 1
            assert len(b.services.deliveries) == 1


async def test_a_memory_alarm_holds_answers_back_and_nothing_is_lost(rabbitmq: Broker) -> None:
    async with bench(rabbitmq, slots=2, stall_s=0.2) as b:
        sent = [await b.client.send(encode(Job(code="wait")), message_id=f"m-{number}") for number in range(4)]
        await b.until(ready=2, unacked=2)
        await rabbitmq.alarm(on=True)
        try:
            b.services.release()
            await held(lambda: len(b.services.results) == 2, "two jobs are over")
            await b.until(ready=2, unacked=2)  # what can't be answered is not acked, so nothing more comes
            assert not any(b.client.answers(each) for each in sent)
        finally:
            await rabbitmq.alarm(on=False)
        await held(lambda: len(b.services.running) == 2, "the other two run")
        b.services.release()
        for correlation in sent:
            assert result_of(await b.client.answer(correlation)).status == "ok"
            assert len(b.client.answers(correlation)) == 1


async def test_a_consumer_that_the_broker_cancels_comes_back(rabbitmq: Broker) -> None:
    async with bench(rabbitmq) as b:
        correlation = await waiting(b)
        await b.client.channel.queue_delete(JOBS)
        await b.until(ready=0, unacked=0, consumers=1)
        b.services.release()
        assert result_of(await b.client.answer(correlation)).status == "ok"
        assert result_of(await b.client.run("echo on")).stdout == "on"


async def test_a_message_in_hand_for_long_is_renewed(rabbitmq: Broker) -> None:
    """Before the broker's own time is over: a copy waits in a retry queue, and is taken in hand in its place."""
    async with bench(rabbitmq, consumer_timeout_s=2.0) as b:
        correlation = await waiting(b)
        for _ in range(2):
            await b.until("rd.retry.1s", ready=1)
            await b.until(ready=0, unacked=0)
            await b.until(ready=0, unacked=1)
        b.services.release()
        assert result_of(await b.client.answer(correlation)).status == "ok"
        await b.until("rd.retry.1s", ready=0, unacked=0)
        await b.until(ready=0, unacked=0)
        assert (len(b.services.deliveries), len(b.client.answers(correlation))) == (1, 1)


async def test_a_job_that_ends_while_its_copy_waits_is_answered_once(rabbitmq: Broker) -> None:
    async with bench(rabbitmq, consumer_timeout_s=2.0) as b:
        correlation = await waiting(b)
        await b.until("rd.retry.1s", ready=1)
        await b.until(ready=0, unacked=0)
        b.services.release()
        assert result_of(await b.client.answer(correlation)).status == "ok"
        await b.until("rd.retry.1s", ready=0, unacked=0)
        await b.until(ready=0, unacked=0)
        assert (len(b.services.deliveries), len(b.client.answers(correlation))) == (1, 1)


async def test_the_same_job_again_is_answered_to_whoever_asked(rabbitmq: Broker) -> None:
    async with bench(rabbitmq) as b:
        first = await b.client.send(encode(Job(code="echo hi")), message_id="twice")
        second = await b.client.send(encode(Job(code="echo hi")), message_id="twice")
        assert {result_of(await b.client.answer(each)).stdout for each in (first, second)} == {"hi"}


async def test_leaving_finishes_what_is_in_hand_and_gives_the_rest_to_others(rabbitmq: Broker) -> None:
    stopping, other = FakeServices(slots=1), FakeServices(slots=1)
    async with rabbitmq.vhost() as vhost, client(rabbitmq.url(vhost)) as c:
        b = Bench(rabbitmq, vhost, c, stopping)
        leaving = asyncio.Event()
        began = asyncio.Event()

        async def daemon() -> None:
            async with opened(stopping, b.url, prefetch=3):
                began.set()
                await leaving.wait()
                stopping.drain()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(daemon())
            await began.wait()
            sent = [await c.send(encode(Job(code="wait")), message_id=f"d-{number}") for number in range(3)]
            late = await c.send(encode(Job(code="echo late")), message_id="late")
            await b.until(ready=1, unacked=3)
            leaving.set()
            await held(stopping.draining, "the daemon stops")
            while len(stopping.results) < 3:
                stopping.release()
                await asyncio.sleep(0.01)
        async with opened(other, b.url):
            for correlation in (*sent, late):
                assert result_of(await c.answer(correlation)).status == "ok"
        assert [delivery.job_id for delivery in other.deliveries] == ["late"]


async def test_jobs_beyond_the_grace_are_given_back_at_once(rabbitmq: Broker) -> None:
    stopping, other = FakeServices(), FakeServices()
    async with rabbitmq.vhost() as vhost, client(rabbitmq.url(vhost)) as c:
        b = Bench(rabbitmq, vhost, c, stopping)
        async with opened(stopping, b.url, drain_s=0.0):
            correlation = await waiting(b)
        assert not stopping.running
        await b.until(ready=1, unacked=0, consumers=0)
        async with opened(other, b.url):
            await held(lambda: other.running, "it runs elsewhere")
            other.release()
            assert result_of(await c.answer(correlation)).status == "ok"


async def test_what_a_stopping_daemon_refuses_does_not_come_to_it_again(rabbitmq: Broker) -> None:
    async with bench(rabbitmq) as b:
        b.services._draining = True  # and nobody has told it yet
        await b.client.send(encode(Job(code="interrupted")), message_id="refused", reply_to=None)
        await b.until(ready=1, unacked=0, consumers=0)
        assert len(b.services.deliveries) == 1
        await (await b.client.channel.get_queue(JOBS)).purge()


async def test_two_daemons_share_in_proportion_to_their_slots(rabbitmq: Broker) -> None:
    small, big = FakeServices(slots=2), FakeServices(slots=6)
    async with rabbitmq.vhost() as vhost, client(url := rabbitmq.url(vhost)) as c, opened(small, url), opened(big, url, alone=False):
        b = Bench(rabbitmq, vhost, c, small)
        sent = [await c.send(encode(Job(code="wait")), message_id=f"s-{number}") for number in range(8)]
        await b.until(ready=0, unacked=8)
        await held(lambda: (len(small.running), len(big.running)) == (2, 6), "each has what it can run")
        small.release()
        big.release()
        for correlation in sent:
            await c.answer(correlation)


async def test_nothing_listens(unused_tcp_port: int) -> None:
    with pytest.raises(IngressError, match=f"127.0.0.1:{unused_tcp_port}.*[Cc]onnect") as told:
        async with RabbitMq(url=f"amqp://u:hunter2@127.0.0.1:{unused_tcp_port}/v", connect_s=5.0).open(FakeServices()):
            raise AssertionError
    assert "hunter2" not in str(told.value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"password": "wrong"}, "ACCESS_REFUSED"),
        ({"user": "nobody", "password": "wrong"}, "ACCESS_REFUSED"),
        ({"vhost": "elsewhere"}, r"virtual host 'elsewhere'.*NOT_ALLOWED: there is no such virtual host"),
    ],
)
async def test_the_broker_does_not_let_us_in(rabbitmq: Broker, settings: dict[str, str], says: str) -> None:
    with pytest.raises(IngressError, match=rf"127.0.0.1:{rabbitmq.port}.*{says}") as told:
        async with RabbitMq(url=f"amqp://127.0.0.1:{rabbitmq.port}", connect_s=30.0, **settings).open(FakeServices()):
            raise AssertionError
    assert "wrong" not in str(told.value)


async def test_the_first_node_that_answers_is_taken(rabbitmq: Broker, unused_tcp_port: int, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("guest\n")
    async with rabbitmq.vhost() as vhost, client(rabbitmq.url(vhost)) as c:
        urls = f"amqp://127.0.0.1:{unused_tcp_port}, amqp://127.0.0.1:{rabbitmq.port}"
        async with opened(FakeServices(), urls, vhost=vhost, user="guest", password_file=str(secret)):
            assert result_of(await c.run("echo hi")).stdout == "hi"
            names = [name for name in await rabbitmq.connections() if name.startswith("runnerd/")]
            assert sorted(name.rpartition("/")[2] for name in names) == ["consume", "publish"]


async def test_tls_and_a_certificate_for_a_name(rabbitmq: Broker) -> None:
    async with rabbitmq.vhost() as vhost, client(rabbitmq.url(vhost)) as c:
        await rabbitmq.tell('rabbit_auth_backend_internal:add_user(<<"certified">>, <<"unused">>, <<"guest">>)')
        await rabbitmq.allow(vhost, "certified", ".*", ".*", ".*")
        url = f"amqps://127.0.0.1:{rabbitmq.tls_port}/{vhost}"
        certificates = {name: str(rabbitmq.directory / f"{name}.pem") for name in ("ca", "client")}
        async with opened(FakeServices(), url, user="guest", password="guest", tls_ca=certificates["ca"]):
            assert result_of(await c.run("echo secret")).stdout == "secret"
        async with opened(FakeServices(), url, auth="external", tls_ca=certificates["ca"], tls_cert=certificates["client"]):
            assert result_of(await c.run("echo certified")).stdout == "certified"
        with pytest.raises(IngressError, match=rf"127.0.0.1:{rabbitmq.tls_port}.*CERTIFICATE_VERIFY_FAILED"):
            async with RabbitMq(url=url, connect_s=30.0).open(FakeServices()):
                raise AssertionError
        await rabbitmq.tell('rabbit_auth_backend_internal:delete_user(<<"certified">>, <<"guest">>)')


@pytest.mark.parametrize("vhost", ["/", "a/b c", "žluť"])
async def test_virtual_hosts_of_any_name(rabbitmq: Broker, vhost: str) -> None:
    name = ", ".join(str(byte) for byte in vhost.encode())
    if vhost != "/":
        await rabbitmq.tell(f'rabbit_vhost:add(<<{name}>>, <<"guest">>)')
        await rabbitmq.tell(
            f'rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<{name}>>, <<".*">>, <<".*">>, <<".*">>, <<"guest">>)'
        )
    found = await RabbitMq(url=f"amqp://guest:guest@127.0.0.1:{rabbitmq.port}", vhost=vhost, connect_s=30.0).prepare(make=False)
    assert len(found.missing) == 14
    if vhost != "/":
        await rabbitmq.tell(f'rabbit_vhost:delete(<<{name}>>, <<"guest">>)')


async def test_what_is_missing_is_named_and_what_differs_is_left(rabbitmq: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    async with rabbitmq.vhost() as vhost, client(rabbitmq.url(vhost)) as c:
        with pytest.raises(IngressError, match=r"there is no exchange rd.jobs, .*no queue rd.jobs.std, .*runnerd bus init"):
            async with RabbitMq(url=rabbitmq.url(vhost), connect_s=30.0).open(FakeServices()):
                raise AssertionError
        async with opened(FakeServices(), rabbitmq.url(vhost)):
            pass
        await c.channel.queue_delete("rd.dead")
        await c.channel.declare_queue("rd.dead", durable=True)
        async with opened(FakeServices(), rabbitmq.url(vhost), topology="verify"):
            assert result_of(await c.run("echo hi")).stdout == "hi"
        assert "queue rd.dead: PRECONDITION_FAILED - inequivalent arg 'x-queue-type'" in capsys.readouterr().out


async def test_errors_of_the_block_come_out_as_they_went_in(rabbitmq: Broker) -> None:
    async with rabbitmq.vhost() as vhost:
        with pytest.raises(KeyError, match="mine"):
            async with opened(FakeServices(), rabbitmq.url(vhost)):
                raise KeyError("mine")


@pytest.mark.parametrize("field", ["password_file", "tls_ca", "tls_cert"])
async def test_a_credential_that_is_not_there_is_named(tmp_path: Path, field: str) -> None:
    with pytest.raises(IngressError, match=field):
        async with RabbitMq(url="amqps://127.0.0.1:1", **{field: str(tmp_path / "none")}).open(FakeServices()):
            raise AssertionError


@pytest.mark.parametrize("url", ["http://host:1", "amqp://:5672", "amqp://host:99999", "host"])
async def test_urls_that_are_none_are_named(url: str) -> None:
    with pytest.raises(IngressError, match=r"ingress.rabbitmq.url|no connection"):
        async with RabbitMq(url=url, connect_s=1.0).open(FakeServices()):
            raise AssertionError
