"""What only the Redis store promises: it survives what happens to servers, says what is wrong and where, and leaves nothing behind."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.connection import Connection as RedisConnection

from redis_fixture import RedisServer, behind_tls, cluster, free_port, fresh_prefix, keys_of, redis_settings, replicated
from runnerd import KeyValues, StoreError
from runnerd.testing import KeyValuesContract
from runnerd.testing.keyvalues import until
from stores import store

PASSWORD = "s3cr3t/p@ss:w#rd"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with RedisServer(tmp_path / "redis", "appendonly yes", "appendfsync always", password=PASSWORD) as server:
        yield server


async def value(kv: KeyValues, key: str) -> bytes | None:
    found = await kv.get(key)
    return None if found is None else found[0]


async def put_until_it_works(kv: KeyValues, key: str, new: bytes) -> int:
    """How often it failed before it worked."""
    failed = 0

    async def works() -> bool:
        nonlocal failed
        try:
            await kv.put(key, new)
        except StoreError:
            failed += 1
            return False
        return True

    await until(works, "the store works again")
    return failed


async def test_a_killed_server_is_told_and_found_again(server: RedisServer) -> None:
    async with store("redis", **server.settings).open_kv() as kv:
        revision = await kv.put("a", b"1")
        await kv.rank("r", "m", 1)
        await asyncio.gather(*(kv.get("a") for _ in range(30)))
        await server.kill()
        for ask in (kv.get("a"), kv.put("a", b"2"), kv.put_if_absent("a", b"2"), kv.delete("a", revision), kv.ranked("r")):
            with pytest.raises(StoreError, match=rf"^Redis 127\.0\.0\.1:{server.port}: .*") as raised:
                await ask
            assert PASSWORD not in str(raised.value)
        await server.start()
        assert await kv.get("a") == (b"1", revision), "the first that is asked is answered"
        new = await kv.compare_and_set("a", revision, b"2")
        assert new is not None
        assert await asyncio.gather(*(kv.get("a") for _ in range(30))) == [(b"2", new)] * 30
        assert await kv.ranked("r") == [("m", 1.0)]


async def test_a_server_killed_while_many_write(server: RedisServer) -> None:
    """What was answered is there, and a counter counts each answer once."""
    async with store("redis", **server.settings).open_kv() as kv:
        await kv.put("n", b"0")
        counted = 0
        done = asyncio.Event()

        async def count() -> None:
            nonlocal counted
            while not done.is_set():
                try:
                    found = await kv.get("n")
                    assert found is not None
                    if await kv.compare_and_set("n", found[1], str(int(found[0]) + 1).encode()) is not None:
                        counted += 1
                except StoreError:
                    await asyncio.sleep(0.01)

        async def answered(more: int) -> None:
            async def enough() -> bool:
                return counted >= more

            await until(enough, "it counts")

        async with asyncio.TaskGroup() as tasks:
            lanes = [tasks.create_task(count()) for _ in range(5)]
            for _ in range(2):
                await answered(counted + 20)
                await server.kill()
                await server.start()
            await answered(counted + 20)
            done.set()
        assert all(lane.done() for lane in lanes)
        stands = int(await value(kv, "n") or b"0")
        assert counted <= stands <= counted + 5 * 2, "at most the write of each lane that lost its answer, at each kill"


async def test_scripts_that_the_server_forgot(server: RedisServer) -> None:
    async with store("redis", **server.settings).open_kv() as kv:
        revision = (await kv.put_if_absent("a", b"1"))[2]
        for step in range(3):
            async with server.client() as client:
                await client.script_flush()
            revision = await kv.compare_and_set("a", revision, str(step).encode()) or ""
            assert revision
        assert await kv.delete("a", revision) is True


async def test_connections_that_were_cut(server: RedisServer) -> None:
    async with store("redis", **server.settings).open_kv() as kv:
        await asyncio.gather(*(kv.put("a", b"1") for _ in range(50)))
        async with server.client() as client:
            await client.client_kill_filter(_type="normal", skipme=True)
        assert await asyncio.gather(*(value(kv, "a") for _ in range(50))) == [b"1"] * 50


async def test_a_server_that_became_a_replica(server: RedisServer) -> None:
    async with store("redis", **server.settings).open_kv() as kv:
        await kv.put("a", b"1")
        async with server.client() as client:
            await client.execute_command("REPLICAOF", "127.0.0.1", 1)
            with pytest.raises(StoreError, match=rf"127\.0\.0\.1:{server.port}: .*read only replica"):
                await kv.put("a", b"2")
            with pytest.raises(StoreError, match="read only replica"):
                await kv.put_if_absent("b", b"2")
            await client.execute_command("REPLICAOF", "NO", "ONE")
        await kv.put("a", b"3")


async def test_a_full_server(server: RedisServer) -> None:
    async with store("redis", **server.settings).open_kv() as kv, server.client() as client:
        await kv.put("a", b"1")
        used = (await client.info("memory"))["used_memory"]
        await client.config_set("maxmemory", used + (1 << 20))
        answers = await asyncio.gather(*(kv.put(f"k{i}", bytes(100_000)) for i in range(100)), return_exceptions=True)
        refused = [str(answer) for answer in answers if isinstance(answer, StoreError)]
        assert refused
        assert all(f"127.0.0.1:{server.port}: " in text and "maxmemory" in text for text in refused), refused
        assert await value(kv, "a") == b"1"
        await client.config_set("maxmemory", 0)
        await kv.put("b", b"2")


async def test_a_server_that_throws_entries_away_is_warned_of(server: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    async with server.client() as client:
        await client.config_set("maxmemory-policy", "allkeys-lru")
    async with store("redis", **server.settings).open_kv() as kv:
        await kv.put("a", b"1")
    said = "".join(capsys.readouterr())
    assert "noeviction" in said
    assert "allkeys-lru" in said
    assert PASSWORD not in said


@pytest.mark.parametrize("password", ["", "wr0ng-one"])
async def test_a_wrong_password(server: RedisServer, password: str) -> None:
    with pytest.raises(StoreError, match=rf"^Redis 127\.0\.0\.1:{server.port}: .*") as raised:
        async with store("redis", **server.settings | {"password": password}).open_kv():
            pass
    assert "uthentication" in str(raised.value) or "WRONGPASS" in str(raised.value) or "invalid" in str(raised.value)
    assert "wr0ng-one" not in str(raised.value)


async def test_nobody_listens() -> None:
    port = free_port()
    with pytest.raises(StoreError, match=rf"^Redis 127\.0\.0\.1:{port}: .*(refused|Connect call failed)"):
        async with store("redis", host="127.0.0.1", port=port).open_kv():
            pass
    with pytest.raises(StoreError, match=r"^Redis nowhere\.invalid:6379: "):
        async with store("redis", host="nowhere.invalid").open_kv():
            pass


async def test_something_else_listens() -> None:
    """Its words are shown, not ours."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said = await reader.read(1000)
        writer.write(b"-ERR unknown command, with args beginning with: " + said.replace(b"\r\n", b" ") + b"\r\n")
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        with pytest.raises(StoreError, match=rf"^Redis 127\.0\.0\.1:{port}: ") as raised:
            async with store("redis", host="127.0.0.1", port=port, password=PASSWORD).open_kv():
                pass
    assert PASSWORD not in str(raised.value)


async def test_operations_wait_for_a_connection_and_not_for_ever(server: RedisServer) -> None:
    settings = server.settings | {"max_connections": 2, "wait_s": 0.1, "most_waiting": 5}
    async with store("redis", **settings).open_kv() as kv, server.client() as client:
        await kv.put("a", b"1")
        await client.client_pause(1000)
        answers = await asyncio.gather(*(kv.get("a") for _ in range(20)), return_exceptions=True)
        assert sum(isinstance(answer, tuple) for answer in answers) == 2, "those that had a connection"
        late = [str(answer) for answer in answers if "within 0.1 s" in str(answer)]
        many = [str(answer) for answer in answers if "5 wait already" in str(answer)]
        assert (len(late), len(many)) == (5, 13)
        assert f"connections to Redis 127.0.0.1:{server.port} (max_connections 2)" in late[0]
        assert await value(kv, "a") == b"1"


async def test_a_url_with_everything(server: RedisServer, tmp_path: Path) -> None:
    prefix = fresh_prefix()
    async with store("redis", url=f"redis://:s3cr3t%2Fp%40ss%3Aw%23rd@127.0.0.1:{server.port}/5", prefix=prefix).open_kv() as kv:
        await kv.put("a", b"1")
        await kv.rank("r", "m", 1)
    async with server.client() as client:
        assert (await client.info("keyspace"))["db5"]["keys"] == 2
        await client.select(5)


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    async with RedisServer(tmp_path / "redis", f"unixsocket {path}"), store("redis", url=f"unix://{path}").open_kv() as kv:
        await kv.put("a", b"1")
        assert await value(kv, "a") == b"1"
    with pytest.raises(StoreError, match=str(path)):
        async with store("redis", url=f"unix://{path}").open_kv():
            pass


async def test_nothing_is_left(tmp_path: Path) -> None:
    async with redis_settings(tmp_path) as server:
        settings = server | {"prefix": fresh_prefix()}
        async with store("redis", **settings).open_kv() as kv:
            await asyncio.gather(*(kv.put(f"s/{i}", b"1", ttl_s=0.2) for i in range(500)))
            await asyncio.gather(*(kv.put_if_absent(f"t/{i}", b"1") for i in range(500)))
            await asyncio.gather(*(kv.rank("r", f"m{i}", i) for i in range(500)))
            assert len(await keys_of(settings)) > 500
            await asyncio.gather(*(kv.delete(f"t/{i}") for i in range(500)))
            await asyncio.gather(*(kv.unrank("r", f"m{i}") for i in range(500)))

            async def none() -> bool:
                return await keys_of(settings) == []

            await until(none, "every key is gone")


async def test_connections_are_closed(server: RedisServer) -> None:
    for _ in range(3):
        async with store("redis", **server.settings).open_kv() as kv:
            await asyncio.gather(*(kv.put("a", b"1") for _ in range(50)))
    await server.until(_alone, "no connection of ours is left")


async def _alone(client: Redis) -> bool:
    return not [one for one in await client.client_list() if one["name"] == "runnerd"]


async def test_tls(server: RedisServer, tmp_path: Path) -> None:
    async with behind_tls(server.port, tmp_path / "tls") as (port, authority):
        settings: dict[str, Any] = {"host": "localhost", "port": port, "password": PASSWORD, "tls": True}
        async with store("redis", **settings, tls_ca=str(authority)).open_kv() as kv:
            await kv.put("a", bytes(1 << 20))
            assert await value(kv, "a") == bytes(1 << 20)
        async with store("redis", url=f"rediss://localhost:{port}", password=PASSWORD, tls_ca=str(authority)).open_kv() as kv:
            assert await value(kv, "a") == bytes(1 << 20)
        for wrong, told in (
            ({}, "certificate"),
            ({"tls_ca": str(authority), "host": "127.0.0.1"}, "certificate"),
            ({"tls_ca": str(tmp_path / "none.pem")}, "No such file|certificate"),
        ):
            with pytest.raises(StoreError, match=rf"^Redis (localhost|127\.0\.0\.1):{port}: .*({told})"):
                async with store("redis", **settings | wrong).open_kv():
                    pass


@pytest.mark.slow
class TestSentinel:
    @pytest.fixture
    async def servers(self, tmp_path: Path) -> AsyncIterator[tuple[RedisServer, RedisServer, RedisServer]]:
        async with replicated(tmp_path) as servers:
            yield servers

    @pytest.fixture
    async def kv(self, servers: tuple[RedisServer, RedisServer, RedisServer]) -> AsyncIterator[KeyValues]:
        async with store("redis", sentinels=[servers[2].address]).open_kv() as kv:
            yield kv

    async def test_follows_a_failover(self, servers: tuple[RedisServer, RedisServer, RedisServer], kv: KeyValues) -> None:
        primary, replica, sentinel = servers
        revision = await kv.put("a", b"1")
        async with primary.client() as client:
            assert await client.wait(1, 30_000) == 1
        await primary.kill()
        with pytest.raises(StoreError, match=rf"^Redis mymaster at sentinel 127\.0\.0\.1:{sentinel.port}: "):
            await kv.get("a")
        await put_until_it_works(kv, "b", b"2")
        assert await kv.get("a") == (b"1", revision)
        assert await _is_primary_at(replica)

    async def test_follows_when_the_primary_lives_on(self, servers: tuple[RedisServer, RedisServer, RedisServer], kv: KeyValues) -> None:
        _, replica, sentinel = servers
        await kv.put("a", b"1")
        async with sentinel.client() as client:
            await client.execute_command("SENTINEL FAILOVER", "mymaster")
        await replica.until(_is_primary, "the replica took over")

        async def arrives() -> bool:
            await put_until_it_works(kv, "b", b"2")
            async with replica.client() as client:
                return bool(await client.exists("runnerd:entry:b"))

        await until(arrives, "the store follows")

    async def test_a_service_that_no_sentinel_knows(self, servers: tuple[RedisServer, RedisServer, RedisServer]) -> None:
        settings = {"sentinels": [servers[2].address], "sentinel_service": "other"}
        with pytest.raises(StoreError, match=rf"^Redis other at sentinel 127\.0\.0\.1:{servers[2].port}: .*other"):
            async with store("redis", **settings).open_kv():
                pass


async def _is_primary_at(server: RedisServer) -> bool:
    async with server.client() as client:
        return await _is_primary(client)


async def _is_primary(client: Redis) -> bool:
    return bool((await client.info("replication"))["role"] == "master")


@pytest.fixture(scope="module")
async def nodes(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[RedisServer]]:
    async with cluster(tmp_path_factory.mktemp("cluster")) as nodes:
        yield nodes


@pytest.mark.slow
class TestCluster(KeyValuesContract):
    @pytest.fixture
    async def kv(self, nodes: list[RedisServer]) -> AsyncIterator[KeyValues]:
        settings = {"port": nodes[0].port, "host": "127.0.0.1", "cluster": True, "prefix": fresh_prefix(), "value_bytes": 1 << 20}
        async with store("redis", **settings).open_kv() as kv:
            yield kv

    async def test_keys_are_on_every_node(self, kv: KeyValues, nodes: list[RedisServer]) -> None:
        await asyncio.gather(*(kv.put_if_absent(f"many/{i}", b"1") for i in range(100)))
        for node in nodes:
            async with node.client() as client:
                assert await client.dbsize() > 10

    async def test_a_node_is_killed_and_comes_back(self, kv: KeyValues, nodes: list[RedisServer]) -> None:
        await asyncio.gather(*(kv.put(f"key/{i}", b"1") for i in range(30)))
        await nodes[1].kill()
        answers = await asyncio.gather(*(kv.put(f"key/{i}", b"2") for i in range(30)), return_exceptions=True)
        failed = [answer for answer in answers if not isinstance(answer, str)]
        assert failed
        assert all(isinstance(answer, StoreError) and "(cluster)" in str(answer) for answer in failed), failed
        await nodes[1].start()
        for i in range(30):
            await put_until_it_works(kv, f"key/{i}", b"3")
        assert await asyncio.gather(*(value(kv, f"key/{i}") for i in range(30))) == [b"3"] * 30

    async def test_no_node_can_be_reached(self) -> None:
        port = free_port()
        with pytest.raises(StoreError, match=rf"^Redis 127\.0\.0\.1:{port} \(cluster\): Redis Cluster cannot be connected"):
            async with store("redis", host="127.0.0.1", port=port, cluster=True).open_kv():
                pass

    async def test_connections_are_closed_under_those_that_use_them(self, kv: KeyValues, monkeypatch: pytest.MonkeyPatch) -> None:
        """As redis-py does when another command finds a node lost: seen one time in some hundred kills under load."""
        send = RedisConnection._send_packed_command

        async def lost(self: RedisConnection, command: Iterable[bytes]) -> None:
            await self.disconnect(nowait=True)
            await send(self, command)

        with monkeypatch.context() as patched:
            patched.setattr(RedisConnection, "_send_packed_command", lost)
            with pytest.raises(StoreError, match=r"\(cluster\): the node was lost while it was asked"):
                await kv.put("key", b"1")
        await put_until_it_works(kv, "key", b"2")
