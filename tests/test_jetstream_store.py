"""The JetStream store: the contracts, and what is its own: settings of the stream, deaths of the server, what is left over."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from nats.aio.client import Client

from nats_fixture import NatsServer, nats_client, nats_proxy, nats_server, wait_until
from runnerd import Blobs, KeyValues, StoreError, new_id
from runnerd.testing import BlobsContract, KeyValuesContract
from stores import store


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NatsServer]:
    directory = tmp_path_factory.mktemp("nats")
    async with nats_server(directory, jetstream={"store_dir": str(directory / "js")}) as server:
        yield server


def bucket() -> str:
    return f"t{new_id()[-8:]}"


class TestKeyValues(KeyValuesContract):
    @pytest.fixture
    async def kv(self, server: NatsServer) -> AsyncIterator[KeyValues]:
        async with store("jetstream", url=server.url, bucket=bucket(), bucket_bytes=64 << 20, value_bytes=512 << 10).open_kv() as kv:
            yield kv


class TestBlobs(BlobsContract):
    @pytest.fixture
    async def blobs(self, server: NatsServer) -> AsyncIterator[Blobs]:
        name = bucket()
        async with store("jetstream", url=server.url, bucket=name, stream_bytes=256 << 20).open_blobs() as blobs:
            yield blobs
            async with nats_client(server.url) as client:
                info = await client.jetstream().stream_info(f"BLOBS_{name}", subjects_filter=">")
                subjects = list(info.state.subjects or {})
                place = f"$BLOBS.{name}."
                ids = set()
                for blob in await blobs.list():
                    message = await client.jetstream().get_last_msg(f"BLOBS_{name}", f"{place}blob.{blob.key.replace('/', '.')}")
                    ids.add(json.loads(message.data or b"")["id"])
                chunks = {subject.split(".")[3] for subject in subjects if subject.startswith(place + "chunk.")}
                assert chunks <= ids, "every chunk belongs to a blob"
                assert not [subject for subject in subjects if subject.startswith(place + "upload.")]


async def test_other_tools_see_the_entries(server: NatsServer) -> None:
    name = bucket()
    async with store("jetstream", url=server.url, bucket=name, bucket_bytes=1 << 20).open_kv() as kv, nats_client(server.url) as client:
        await kv.put("jobs/acme/1", b"x")
        theirs = await client.jetstream().key_value(name)
        assert (await theirs.get("jobs.acme.1")).value == b"x"


async def test_the_server_removes_what_expired(server: NatsServer) -> None:
    name = bucket()
    async with store("jetstream", url=server.url, bucket=name, bucket_bytes=1 << 20).open_kv() as kv, nats_client(server.url) as client:
        await kv.put("a", b"x", 0.05)

        async def messages() -> int:
            return (await client.jetstream().stream_info(f"KV_{name}")).state.messages

        async with asyncio.timeout(30):
            while await messages():
                await asyncio.sleep(0.05)


async def test_entries_survive_a_server_that_is_killed(tmp_path: Path) -> None:
    async with nats_server(tmp_path, jetstream={"store_dir": str(tmp_path / "js")}) as server:
        settings = {"url": server.url, "bucket_bytes": 1 << 20, "stream_bytes": 8 << 20, "timeout_s": 0.5}
        async with store("jetstream", **settings).open_kv() as kv, store("jetstream", **settings).open_blobs() as blobs:

            async def parts() -> AsyncIterator[bytes]:
                for _ in range(20):
                    yield bytes(100_000)

            revision = await kv.put("a", b"1")
            await kv.rank("r", "m", 1.0)
            await blobs.put("b", parts())
            await server.kill()
            with pytest.raises(StoreError, match=rf"127\.0\.0\.1:{server.port}"):
                await kv.get("a")
            await server.start()
            async with asyncio.timeout(30):
                while True:
                    try:
                        found = await kv.get("a")
                        break
                    except StoreError:
                        continue
            assert found == (b"1", revision)
            assert await kv.ranked("r") == [("m", 1.0)]
            assert len(b"".join([chunk async for chunk in blobs.get("b")])) == 2_000_000


async def test_connecting_again_that_fails_half_way_leaves_no_socket(server: NatsServer) -> None:
    async with (
        nats_proxy(server.port) as (proxy, url),
        store("jetstream", url=url, bucket=bucket(), bucket_bytes=1 << 20, timeout_s=30).open_kv() as kv,
    ):
        proxy.instead = b"+OK\r\n"  # as of a server that says nothing, only sooner
        proxy.cut()
        connects = proxy.connects
        await wait_until(lambda: proxy.connects >= connects + 3, "several tries to connect again")
        proxy.instead = b""
        assert await kv.get("a") is None


async def test_a_full_store_refuses(server: NatsServer) -> None:
    async with store("jetstream", url=server.url, bucket=bucket(), bucket_bytes=1 << 20).open_kv() as kv:
        revision = await kv.put("a", b"kept")
        writes = [kv.put(f"b/{i}", bytes(100_000)) for i in range(30)]
        refused = [answer for answer in await asyncio.gather(*writes, return_exceptions=True) if isinstance(answer, StoreError)]
        assert "maximum bytes exceeded" in str(refused[0])
        assert await kv.get("a") == (b"kept", revision)


async def test_no_server_and_no_jetstream_are_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"JetStream at nats://127\.0\.0\.1:1: can't be reached"):
        async with store("jetstream", url="nats://user:secret@127.0.0.1:1", connect_s=0.5).open_kv():
            pass
    async with nats_server(tmp_path) as server:
        with pytest.raises(StoreError, match="start it with -js"):
            async with store("jetstream", url=server.url).open_kv():
                pass


async def test_a_wrong_password_is_said_and_not_shown(tmp_path: Path) -> None:
    async with nats_server(tmp_path, authorization={"user": "u", "password": "right"}) as server:
        url = server.url.replace("//", "//u:wr0ng@")
        with pytest.raises(StoreError, match=r"(?i)authorization") as caught:
            async with store("jetstream", url=url, connect_s=2).open_kv():
                pass
        assert "wr0ng" not in str(caught.value)


async def test_streams_are_checked(server: NatsServer) -> None:
    name = bucket()
    with pytest.raises(StoreError, match=f"there is no stream KV_{name}: create it, or set store.jetstream.create"):
        async with store("jetstream", url=server.url, bucket=name, create=False).open_kv():
            pass
    async with nats_client(server.url) as client:
        await client.jetstream().add_stream(name=f"KV_{name}", subjects=[f"$KV.{name}.>"])
    with pytest.raises(StoreError, match=f"stream KV_{name}: allow_msg_ttl is False and has to be True"):
        async with store("jetstream", url=server.url, bucket=name).open_kv():
            pass


async def test_a_connection_that_is_given_up_ends_where_the_library_swallows_that(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_: Client) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            raise OSError("closed while it was opened") from None

    monkeypatch.setattr(Client, "_select_next_server", never)
    async with asyncio.timeout(30):
        with pytest.raises(StoreError, match=r"can't be reached within 0\.1 s"):
            async with store("jetstream", url="nats://127.0.0.1:1", connect_s=0.1).open_kv():
                pass
