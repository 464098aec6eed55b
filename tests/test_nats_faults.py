"""Servers that die, clients that are closed for good, daemons that stop: jobs in hand are answered all the same."""

import asyncio
import json
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from runnerd_plugins.ingress.nats import Nats

from fake_services import FakeServices
from nats_fixture import nats_client, nats_proxy, nats_server, wait_until
from nats_ingress import Bench, bench, opened, result_of
from runnerd import IngressError, Job, encode

RUN = "rd.v1.run.acme.py"


async def waiting_job(b: Bench, got: list[Msg], inbox: str, **headers: str) -> None:
    """Submit a job that waits; its answers go to `got`, whatever happens to the server meanwhile."""

    async def receive(msg: Msg) -> None:
        got.append(msg)

    await b.client.subscribe(inbox, cb=receive)
    await b.client.publish(RUN, encode(Job(code="wait")), reply=inbox, headers={"Rd-Job-Id": "in-hand", **headers})
    await wait_until(lambda: b.services.running, "the job runs")


async def both_back(b: Bench, connects: int = 2) -> None:
    """Wait until the daemon's two connections and the client's are there."""
    async with asyncio.timeout(60):
        while not b.client.is_connected:
            await asyncio.sleep(0.02)
        while True:
            connections = [each for each in await b.server.connections() if each.get("name", "").startswith("runnerd/")]
            subscribed = any("rd.v1.info.*" in each.get("subscriptions_list", ()) for each in connections)
            if len(connections) == connects and subscribed:
                return
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_killed_server_loses_no_job_in_hand(tmp_path: Path, stream: bool) -> None:
    async with bench(tmp_path) as b:
        got: list[Msg] = []
        inbox = b.client.new_inbox()
        await waiting_job(b, got, inbox, **({"Rd-Stream": "reply"} if stream else {}))
        await b.server.kill()
        await wait_until(lambda: not b.client.is_connected, "the client has noticed")
        await b.server.start()
        await both_back(b)
        await b.client.flush()
        b.services.release()
        await wait_until(lambda: any(msg.headers and "Rd-Status" in msg.headers for msg in got), "the answer")
        assert result_of(next(msg for msg in got if msg.headers and "Rd-Status" in msg.headers)).id == "in-hand"
        assert result_of(await b.run("echo on")).stdout == "on"
        await b.client.close()


async def test_an_answer_waits_for_a_server_that_is_away(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        got: list[Msg] = []
        await waiting_job(b, got, b.client.new_inbox())
        await b.server.kill()
        b.services.release()
        await wait_until(lambda: not b.services.running, "the job is over")
        await b.server.start()
        await both_back(b)
        assert (await b.stats())["counts"].get("replies_lost", 0) == 0
        assert result_of(await b.ask("rd.v1.ctl.acme.in-hand.status")).status == "ok"
        await b.client.close()


async def test_a_client_that_was_closed_for_good_is_replaced(tmp_path: Path) -> None:
    services = FakeServices()
    async with (
        nats_server(tmp_path / "server") as server,
        nats_proxy(server.port) as (proxy, url),
        nats_client(server.url) as client,
        opened(services, url),
    ):
        b = Bench(server, client, services)
        got: list[Msg] = []
        await waiting_job(b, got, client.new_inbox())
        for round_ in (1, 2):
            connects = proxy.connects
            proxy.inject(b"-ERR 'Maximum Payload Violation'\r\n")
            await wait_until(lambda connects=connects: proxy.connects >= connects + 2, "two new clients")
            await both_back(b)
            assert await b.counted("clients_rebuilt", 2 * round_) == 2 * round_
        assert services.running
        services.release()
        await wait_until(lambda: got, "the answer goes out on the new client")
        assert result_of(got[0]).id == "in-hand"
        assert result_of(await b.run("echo on")).stdout == "on"
        await client.close()


async def test_connecting_again_that_fails_half_way_leaves_no_socket(tmp_path: Path) -> None:
    async with (
        nats_server(tmp_path / "server") as server,
        nats_proxy(server.port) as (proxy, url),
        nats_client(server.url) as client,
        opened(FakeServices(), url),
    ):
        proxy.instead = b"+OK\r\n"  # as of a server that says nothing, only sooner
        proxy.cut()
        connects = proxy.connects
        await wait_until(lambda: proxy.connects >= connects + 4, "several tries to connect again")
        proxy.instead = b""
        b = Bench(server, client, FakeServices())
        await both_back(b)
        assert result_of(await b.run("echo on")).stdout == "on"
        await client.close()


async def test_a_full_daemon_that_lost_its_client_stays_outside(tmp_path: Path) -> None:
    services = FakeServices(slots=1)
    async with (
        nats_server(tmp_path / "server") as server,
        nats_proxy(server.port) as (proxy, url),
        nats_client(server.url) as client,
        opened(services, url, prefetch=0),
    ):
        b = Bench(server, client, services)
        got: list[Msg] = []
        await waiting_job(b, got, client.new_inbox())
        for line in (b"-ERR 'Maximum Payload Violation'\r\n", b""):
            connects = proxy.connects
            proxy.inject(line) if line else proxy.cut()
            await wait_until(lambda connects=connects: proxy.connects >= connects + 2, "connected again")
            await both_back(b)
            with pytest.raises(NoRespondersError):
                await b.run("echo too much")
        services.release()
        await wait_until(lambda: got, "the answer")
        async with asyncio.timeout(30):
            while not (await b.stats())["member"]:
                await asyncio.sleep(0.02)
        assert result_of(await b.run("echo on")).stdout == "on"
        await client.close()


async def test_nothing_listens(unused_tcp_port: int) -> None:
    with pytest.raises(IngressError, match=f"127.0.0.1:{unused_tcp_port}: no connection within 0.3 s: .*[Cc]onnect"):
        async with Nats(url=f"nats://u:hunter2@127.0.0.1:{unused_tcp_port}", connect_s=0.3).open(FakeServices()):
            raise AssertionError


@pytest.mark.parametrize("settings", [{}, {"user": "u", "password": "wrong"}, {"token": "t"}])
async def test_the_server_does_not_let_us_in(tmp_path: Path, settings: dict[str, str]) -> None:
    async with nats_server(tmp_path, authorization={"user": "u", "password": "right"}) as server:
        with pytest.raises(IngressError, match=r"(?i)does not let us in: .*authorization"):
            async with Nats(url=server.url, connect_s=30, **settings).open(FakeServices()):
                raise AssertionError


async def test_errors_of_the_block_come_out_as_they_went_in(tmp_path: Path) -> None:
    async with nats_server(tmp_path) as server:
        with pytest.raises(KeyError, match="mine"):
            async with opened(FakeServices(), server.url):
                raise KeyError("mine")


@pytest.mark.parametrize("field", ["creds_file", "nkey_seed_file", "tls_ca", "tls_cert"])
async def test_a_credential_that_is_not_there_is_named(tmp_path: Path, field: str) -> None:
    with pytest.raises(IngressError, match=field):
        async with Nats(url="nats://127.0.0.1:1", **{field: str(tmp_path / "none")}).open(FakeServices()):
            raise AssertionError


async def test_leaving_finishes_what_is_in_hand_and_takes_no_more(tmp_path: Path) -> None:
    services = FakeServices()
    async with nats_server(tmp_path) as server, nats_client(server.url) as client:
        b = Bench(server, client, services)
        got: list[Msg] = []
        inbox = client.new_inbox()
        leaving = asyncio.Event()

        async def daemon() -> None:
            async with Nats(url=server.url).open(services):
                await leaving.wait()
                services.drain()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(daemon())
            async with asyncio.timeout(30):
                while not [each for each in await server.connections() if "rd.v1.run.*.*" in each.get("subscriptions_list", ())]:
                    await asyncio.sleep(0.02)
            await waiting_job(b, got, inbox)
            leaving.set()
            async with asyncio.timeout(30):
                while [each for each in await server.connections() if "rd.v1.run.*.*" in each.get("subscriptions_list", ())]:
                    await asyncio.sleep(0.02)
            with pytest.raises(NoRespondersError):
                await b.run("echo too late")
            assert json.loads((await b.ask("$SRV.PING")).data)["metadata"]["state"] == "draining"
            assert json.loads((await b.ask("rd.v1.ctl.acme.in-hand.status")).data)["state"] == "running"
            services.release()
        await wait_until(lambda: got, "the answer")
        assert result_of(got[0]).status == "ok"
        with pytest.raises(NoRespondersError):
            await b.ask("$SRV.PING")


async def test_jobs_beyond_the_grace_are_given_back(tmp_path: Path) -> None:
    services = FakeServices()
    got: list[Msg] = []
    async with nats_server(tmp_path) as server, nats_client(server.url) as client:
        b = Bench(server, client, services)
        async with Nats(url=server.url, drain_s=0.0).open(services):
            await waiting_job(b, got, client.new_inbox())
        await wait_until(lambda: got, "an answer")
        assert got[0].headers["Nats-Service-Error-Code"] == "503"
        assert "Rd-Status" not in got[0].headers
        assert services.running == {}
        assert [each for each in await server.connections() if each.get("name", "").startswith("runnerd/")] == []


async def test_a_cancelled_daemon_drains_as_well(tmp_path: Path) -> None:
    services = FakeServices()
    got: list[Msg] = []
    async with nats_server(tmp_path) as server, nats_client(server.url) as client:
        b = Bench(server, client, services)
        opened_ = asyncio.Event()

        async def daemon() -> None:
            async with Nats(url=server.url).open(services):
                opened_.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(daemon())
        await opened_.wait()
        await waiting_job(b, got, client.new_inbox())
        task.cancel()
        async with asyncio.timeout(30):
            while [each for each in await server.connections() if "rd.v1.run.*.*" in each.get("subscriptions_list", ())]:
                await asyncio.sleep(0.02)
        assert not task.done()
        services.release()
        with pytest.raises(asyncio.CancelledError):
            await task
        await wait_until(lambda: got, "the answer")
        assert result_of(got[0]).status == "ok"


async def test_urls_that_are_none_are_named() -> None:
    for url in ("http://host:1", "nats://:99999", "nats://127.0.0.1:1,ws://127.0.0.1:2"):
        with pytest.raises(IngressError, match="no connection"):
            async with Nats(url=url, connect_s=1.0).open(FakeServices()):
                raise AssertionError


@pytest.mark.parametrize("stopped", [False, True])
async def test_a_connection_that_is_given_up_ends_where_the_library_swallows_that(monkeypatch: pytest.MonkeyPatch, stopped: bool) -> None:
    begun = asyncio.Event()

    async def never(_: Client) -> None:
        begun.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            raise OSError("closed while it was opened") from None  # what closing after a broken TLS handshake comes to

    monkeypatch.setattr(Client, "_select_next_server", never)
    nats = Nats(url="nats://127.0.0.1:1", connect_s=3600 if stopped else 0.1)
    opening = asyncio.create_task(nats.open(FakeServices()).__aenter__())
    await begun.wait()
    if stopped:
        opening.cancel()
    async with asyncio.timeout(30):
        with pytest.raises(asyncio.CancelledError if stopped else IngressError, match=None if stopped else "no connection within"):
            await opening
