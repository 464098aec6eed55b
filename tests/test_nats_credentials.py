"""Every usual way to say who we are to a NATS server, and what tenants may do there."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats.errors
import pytest
import trustme
from nats.aio.client import Client
from runnerd_plugins.ingress.nats import Nats
from runnerd_plugins.ingress.nats.jetstream.settings import JetStream

from fake_services import FakeServices
from nats_fixture import NatsServer, nats_client, nats_server, wait_until
from nats_identity import Identity, operator_mode, written
from runnerd import IngressError, Job, decode_result, encode

ACCOUNTS = Path(__file__).parents[1] / "deploy/nats/accounts.conf"
PASSWORDS = {"ADMIN_PASSWORD": "a1", "RUNNERD_PASSWORD": "r1", "ACME_PASSWORD": "c1"}


async def let_in(server: NatsServer, **ours: Any) -> None:
    """The daemon comes in; what it says of itself has no secrets."""
    ingress = Nats(**{"url": server.url, "connect_s": 5.0, **ours})
    async with ingress.open(FakeServices()) as address:
        for secret in ("password", "token"):
            if ours.get(secret):
                assert ours[secret] not in address + repr(ingress)


async def kept_out(server: NatsServer, **ours: Any) -> None:
    with pytest.raises(IngressError):
        await let_in(server, **{"connect_s": 2.0, **ours})


async def test_user_and_password(tmp_path: Path) -> None:
    async with nats_server(tmp_path, authorization={"user": "u", "password": "right-one"}) as server:
        await let_in(server, user="u", password="right-one")
        await kept_out(server, user="u", password="wrong-one")
        await kept_out(server)


async def test_token(tmp_path: Path) -> None:
    async with nats_server(tmp_path, authorization={"token": "the-right-token"}) as server:
        await let_in(server, token="the-right-token")
        await kept_out(server, token="the-wrong-token")


async def test_nkey(tmp_path: Path) -> None:
    right, wrong = Identity(), Identity()
    async with nats_server(tmp_path, authorization={"users": [{"nkey": right.public}]}) as server:
        await let_in(server, nkey_seed_file=written(tmp_path / "right.nk", right.seed))
        await kept_out(server, nkey_seed_file=written(tmp_path / "wrong.nk", wrong.seed))


async def test_credentials_file(tmp_path: Path) -> None:
    settings, right = operator_mode()
    _, wrong = operator_mode()
    async with nats_server(tmp_path, **settings) as server:
        await let_in(server, creds_file=written(tmp_path / "right.creds", right))
        await kept_out(server, creds_file=written(tmp_path / "wrong.creds", wrong))


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def tls(authority: trustme.CA, directory: Path, **more: Any) -> dict[str, Any]:
    """The server's part."""
    directory.mkdir(exist_ok=True)
    served = authority.issue_cert("127.0.0.1")
    return {
        "tls": {
            "cert_file": written(directory / "server.pem", b"".join(each.bytes() for each in served.cert_chain_pems)),
            "key_file": written(directory / "server.key", served.private_key_pem.bytes()),
            "ca_file": written(directory / "ca.pem", authority.cert_pem.bytes()),
            **more,
        }
    }


def certificate(authority: trustme.CA, path: Path) -> str:
    """A client's certificate with its key, in one file."""
    return written(path, authority.issue_cert("runnerd@example.org").private_key_and_cert_chain_pem.bytes())


async def test_tls_with_an_authority_of_ones_own(tmp_path: Path, authority: trustme.CA) -> None:
    async with nats_server(tmp_path, **tls(authority, tmp_path)) as server:
        await let_in(server, tls_ca=str(tmp_path / "ca.pem"))
        await let_in(server, url=f"tls://127.0.0.1:{server.port}", tls_ca=str(tmp_path / "ca.pem"))
        await kept_out(server, tls_ca=written(tmp_path / "other.pem", trustme.CA().cert_pem.bytes()))
        await kept_out(server)


async def test_a_certificate_of_the_clients(tmp_path: Path, authority: trustme.CA) -> None:
    async with nats_server(tmp_path, **tls(authority, tmp_path, verify=True)) as server:
        ca = str(tmp_path / "ca.pem")
        await let_in(server, tls_ca=ca, tls_cert=certificate(authority, tmp_path / "right.pem"))
        await kept_out(server, tls_ca=ca)
        await kept_out(server, tls_ca=ca, tls_cert=certificate(trustme.CA(), tmp_path / "wrong.pem"))


@asynccontextmanager
async def acme(server: NatsServer, refused: list[str]) -> AsyncIterator[Client]:
    """A client of a tenant, and what the server refused it."""

    async def note(error: Exception) -> None:
        refused.append(str(error))

    login = {"user": "acme", "password": "c1", "inbox_prefix": "_INBOX.acme"}
    async with nats_client(server.url, **login, error_cb=note) as client:
        yield client


@asynccontextmanager
async def served(directory: Path) -> AsyncIterator[NatsServer]:
    """A server with the accounts that come with runnerd, prepared by its admin, and a daemon that has only its own rights."""
    store = {"store_dir": str(directory / "jetstream")}
    async with nats_server(directory / "server", include=ACCOUNTS, environ=PASSWORDS, jetstream=store) as server:
        nats = Nats(url=server.url, user="runnerd", password="r1", jetstream=JetStream(streams="verify"))
        with pytest.raises(IngressError, match="there is no stream RD_JOBS"):
            async with nats.open(FakeServices()):
                pass
        with pytest.raises(IngressError):
            await Nats(url=server.url, user="runnerd", password="r1", connect_s=1.0).prepare(make=True)
        made = await Nats(url=server.url, user="admin", password="a1").prepare(make=True)
        assert made is not None
        assert "stream RD_JOBS" in made.made
        async with nats.open(FakeServices()):
            yield server


async def test_a_tenant_does_all_that_is_its_own(tmp_path: Path) -> None:
    refused: list[str] = []
    async with served(tmp_path) as server, acme(server, refused) as client:
        body = encode(Job(code="echo hi"))
        assert decode_result((await client.request("rd.v1.run.acme.py", body, timeout=30)).data).stdout == "hi"
        events = await client.subscribe("rd.v1.evt.acme.two.>")
        inbox = client.new_inbox()
        replies = await client.subscribe(inbox)
        sent = await client.request("rd.v1.job.acme.std.py.two", body, timeout=10, headers={"Rd-Reply-To": inbox, "Rd-Output": "events"})
        assert json.loads(sent.data)["stream"] == "RD_JOBS"
        assert decode_result((await replies.next_msg(timeout=30)).data).stdout == "hi"
        assert [(await events.next_msg(timeout=30)).subject for _ in range(2)] == ["rd.v1.evt.acme.two.status", "rd.v1.evt.acme.two.out"]
        async with asyncio.timeout(30):  # the copy is stored beside the reply
            while not (stored := await client.request("$JS.API.DIRECT.GET.RD_RES.rd.v1.res.acme.two", b"", timeout=10)).data:
                await asyncio.sleep(0.02)
        assert decode_result(stored.data).stdout == "hi"
        assert json.loads((await client.request("rd.v1.ctl.acme.two.status", b"", timeout=10)).data)["status"] == "ok"
        pieces = (body[:9], body[9:])
        for number, piece in enumerate(pieces, 1):
            assert json.loads((await client.request(f"rd.v1.part.acme.three.{number}", piece, timeout=10)).data)["stream"] == "RD_PART"
        headers = {"Rd-Reply-To": inbox, "Rd-Parts": "2", "Rd-Body-Bytes": str(len(body)), "Rd-Output": "durable"}
        await client.request("rd.v1.job.acme.std.py.three", b"", timeout=10, headers=headers)
        assert decode_result((await replies.next_msg(timeout=30)).data).stdout == "hi"
        assert not refused
        async with nats_client(server.url, user="admin", password="a1") as admin, asyncio.timeout(30):
            while json.loads((await admin.request("$JS.API.STREAM.INFO.RD_PART", b"", timeout=10)).data)["state"]["messages"]:
                await asyncio.sleep(0.02)


FORBIDDEN = {
    "another's job": "rd.v1.job.victim.std.py",
    "another's part": "rd.v1.part.victim.one.1",
    "another's request": "rd.v1.run.victim.py",
    "another's cancel": "rd.v1.ctl.victim.one.cancel",
    "another's result": "$JS.API.DIRECT.GET.RD_RES.rd.v1.res.victim.one",
    "anybody's result": "$JS.API.DIRECT.GET.RD_RES",
    "a result of its own making": "rd.v1.res.acme.one",
    "a due job": "rd.v1.due.acme.std.py",
    "a stream": "$JS.API.STREAM.DELETE.RD_JOBS",
    "a consumer": "$JS.API.CONSUMER.MSG.NEXT.RD_JOBS.rd-std",
    "an ack": "$JS.ACK.RD_JOBS.rd-std.1.1.1.1.0",
}


async def test_a_tenant_does_nothing_else(tmp_path: Path) -> None:
    refused: list[str] = []
    async with served(tmp_path) as server, acme(server, refused) as client:
        for subject in FORBIDDEN.values():
            await client.publish(subject, encode(Job(code="echo hi")), reply=client.new_inbox())
        await client.flush()
        await wait_until(lambda: len(refused) >= len(FORBIDDEN), "the server has judged them all")
        for what, subject in FORBIDDEN.items():
            assert any("permissions violation" in each.lower() and subject.lower() in each.lower() for each in refused), what


async def test_a_tenant_hears_nothing_of_others(tmp_path: Path) -> None:
    refused: list[str] = []
    async with served(tmp_path) as server, acme(server, refused) as client:
        for subject in ("rd.v1.evt.victim.>", "rd.v1.>", "_INBOX.>", "_INBOX.rd.>", "rd.v1.job.acme.>"):
            await client.subscribe(subject)
        await client.flush()
        await wait_until(lambda: len(refused) == 5, "the server has refused each")


async def test_the_daemon_itself_can_not_remove_a_stream(tmp_path: Path) -> None:
    async with served(tmp_path) as server, nats_client(server.url, user="runnerd", password="r1", inbox_prefix="_INBOX.rd") as daemon:
        for api in ("STREAM.DELETE.RD_JOBS", "STREAM.PURGE.RD_RES", "STREAM.UPDATE.RD_JOBS", "CONSUMER.DELETE.RD_JOBS.rd-std"):
            with pytest.raises(nats.errors.TimeoutError):
                await daemon.request(f"$JS.API.{api}", b"{}", timeout=0.5)
