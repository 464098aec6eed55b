"""A tenant's client on a server with the permissions that are shipped: what it may do works, what it may not do is told at once."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from runnerd_plugins.ingress.nats import Nats
from runnerd_plugins.ingress.nats.jetstream.settings import JetStream

from fake_services import FakeServices
from nats_fixture import NatsServer, nats_server
from runnerd import IngressError, Job, Output, Result
from runnerd.client import Patience, connect_jetstream

ACCOUNTS = Path(__file__).parents[1] / "deploy/nats/accounts.conf"
PASSWORDS = {"ADMIN_PASSWORD": "a1", "RUNNERD_PASSWORD": "r1", "ACME_PASSWORD": "c1"}
ACME = {"user": "acme", "password": "c1"}
FOREVER = Patience(answer_s=600.0)
"""Whoever waits for an answer that is not permitted is stopped by the clock of the suite."""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """With streams, and a daemon."""
    streams = {"store_dir": str(tmp_path / "store")}
    async with nats_server(tmp_path / "server", include=ACCOUNTS, environ=PASSWORDS, jetstream=streams) as running:
        await Nats(url=running.url, user="admin", password="a1").prepare(make=True)
        daemon = Nats(url=running.url, user="runnerd", password="r1", jetstream=JetStream(streams="verify"))
        async with daemon.open(FakeServices()):
            yield running


async def test_a_tenant_submits_and_follows_its_own_jobs(server: NatsServer) -> None:
    async with connect_jetstream(server.url, tenant="acme", inbox_prefix="_INBOX.acme", patience=FOREVER, **ACME) as client:
        events = [event async for event in client.stream(Job(id="one", lang="py", code="stream 2 3"))]
        assert [event.content for event in events if isinstance(event, Output)] == [b"xxx", b"xxx"]
        assert (await client.wait("one")) == events[-1]
        assert await client.status("unknown") is None
        assert isinstance([event async for event in client.tail("one")][-1], Result)


async def test_another_tenants_jobs_are_refused_at_once(server: NatsServer) -> None:
    async with connect_jetstream(server.url, tenant="globex", inbox_prefix="_INBOX.acme", patience=FOREVER, **ACME) as client:
        with pytest.raises(IngressError, match=r"does not permit us to publish to rd\.v1\.job\.globex"):
            await client.run(Job(lang="py", code="echo hi"))
        with pytest.raises(IngressError, match=r"does not permit us to publish to rd\.v1\.ctl\.globex\.one\.cancel"):
            await client.cancel("one")


async def test_answers_that_may_not_come_are_told_with_the_fix(server: NatsServer) -> None:
    async with connect_jetstream(server.url, tenant="acme", patience=FOREVER, **ACME) as client:
        for _ in range(2):
            with pytest.raises(IngressError, match=r"permits no answers to come to _INBOX\.…: .*inbox_prefix"):
                await client.run(Job(lang="py", code="echo hi"))
