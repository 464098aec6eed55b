"""What only the S3 store promises: it survives what happens to servers, says what is wrong and where, and leaves nothing behind."""

import asyncio
import gc
import io
import threading
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from redis_fixture import behind_tls, free_port
from runnerd import Blobs, StoreError
from runnerd.testing.blobs import absent, chunks, content
from s3_fixture import BUCKET, SECRET, S3Server, client_of, fresh_directory, left_over, s3_settings
from stores import store

MIB = 1 << 20
QUICK = {"timeout_s": 10.0, "connect_timeout_s": 2.0, "retries": 0}


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, Any]]:
    async with s3_settings(tmp_path_factory.mktemp("s3")) as settings:
        yield settings


@pytest.fixture
def settings(server: dict[str, Any]) -> dict[str, Any]:
    return server | {"prefix": fresh_directory()}


@pytest.fixture
async def blobs(settings: dict[str, Any]) -> AsyncIterator[Blobs]:
    async with store("s3", **settings).open_blobs() as blobs:
        yield blobs


async def large(mib: int) -> AsyncIterator[bytes]:
    chunk = bytes(range(256)) * (MIB // 256)
    for _ in range(mib):
        yield chunk


async def test_a_cancelled_upload_leaves_nothing(blobs: Blobs, settings: dict[str, Any]) -> None:
    for mib in (1, 6, 12):
        arrived = asyncio.Event()

        async def stuck(mib: int = mib, arrived: asyncio.Event = arrived) -> AsyncIterator[bytes]:
            async for chunk in large(mib):
                yield chunk
            arrived.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(blobs.put("a/b", stuck()))
        await arrived.wait()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert left_over(settings) == ([], [])


async def test_a_sender_that_fails_leaves_nothing(blobs: Blobs, settings: dict[str, Any]) -> None:
    async def broken() -> AsyncIterator[bytes]:
        async for chunk in large(12):
            yield chunk
        raise RuntimeError("gone")

    with pytest.raises(RuntimeError, match="gone"):
        await blobs.put("a", broken())
    assert left_over(settings) == ([], [])


async def test_memory_does_not_grow_with_a_blob(blobs: Blobs) -> None:
    await blobs.put("warm", large(6))
    gc.collect()
    tracemalloc.start()
    try:
        await blobs.put("a", large(100))
        async for _ in blobs.get("a"):
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 24 * MIB, "a few parts"


async def test_the_loop_goes_on_meanwhile(blobs: Blobs) -> None:
    """Sending and receiving is done in threads: the longest that the loop was away is a small part of it."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        counting = tasks.create_task(count())
        await blobs.put("a", large(20))
        assert len(await content(blobs, "a")) == 20 * MIB
        counting.cancel()
    assert turns > 1000


async def test_names_are_in_directories_and_ordered(blobs: Blobs, settings: dict[str, Any]) -> None:
    for key in ("a", "a/b", "a-b", "a/b/c"):
        await blobs.put(key, chunks(b"1"))
    prefix = settings["prefix"]
    assert left_over(settings)[0] == [f"{prefix}{name}" for name in ("a", "a-b", "a./b", "a./b./c")]


async def test_foreign_objects_are_not_listed(blobs: Blobs, settings: dict[str, Any]) -> None:
    await blobs.put("b", chunks(b"1"))
    client = client_of(settings)
    foreign = ("a b", "a/b", "a.b", "zz./c.txt")
    for name in foreign:
        client.put_object(settings["bucket"], settings["prefix"] + name, io.BytesIO(b"1"), 1)
    assert [blob.key for blob in await blobs.list(most=1)] == ["b"]
    assert [blob.key for blob in await blobs.list()] == ["b"]
    for name in foreign:
        client.remove_object(settings["bucket"], settings["prefix"] + name)


@pytest.mark.slow
async def test_lists_in_pages(blobs: Blobs) -> None:
    for start in range(0, 1200, 100):
        await asyncio.gather(*(blobs.put(f"k/{i:04}", chunks(b"1")) for i in range(start, start + 100)))
    assert [blob.key for blob in await blobs.list(most=5000)] == [f"k/{i:04}" for i in range(1200)]
    assert [blob.key for blob in await blobs.list("k/", "k/1098", 3)] == ["k/1099", "k/1100", "k/1101"]


async def test_uploads_wait_for_their_turn_and_not_for_ever(settings: dict[str, Any]) -> None:
    async with store("s3", **settings, uploads=1, wait_s=0.1).open_blobs() as blobs:
        going = asyncio.Event()
        go_on = asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield b"1"
            going.set()
            await go_on.wait()
            yield b"2"

        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(blobs.put("a", slow()))
            await going.wait()
            with pytest.raises(StoreError, match=rf"uploads of S3 .*{settings['bucket']} \(1 at once\): none came free within 0.1 s"):
                await blobs.put("b", chunks(b"1"))
            assert await absent(blobs, "b"), "reading goes on"
            go_on.set()
        assert first.result().size == 2
        await blobs.delete("a")


async def test_threads_end_with_the_block(settings: dict[str, Any]) -> None:
    async with store("s3", **settings).open_blobs() as blobs:
        await asyncio.gather(*(blobs.put(f"a/{i}", chunks(b"1")) for i in range(20)))
        await asyncio.gather(*(blobs.delete(f"a/{i}") for i in range(20)))
        assert [thread for thread in threading.enumerate() if thread.name.startswith("runnerd-s3")]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("runnerd-s3")]
    assert left_over(settings) == ([], [])


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"secret_key": "wr0ng-secret"}, "SignatureDoesNotMatch|AccessDenied|Access denied"),
        ({"access_key": "nobody"}, "InvalidAccessKeyId|AccessDenied|Access denied"),
        ({"bucket": "not-there", "create_bucket": False}, "no such bucket: make it, or set create_bucket"),
        ({"bucket": "Not_A_Bucket"}, "bucket"),
        ({"region": "no region"}, "region"),
    ],
)
async def test_a_wrong_setting(settings: dict[str, Any], wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(StoreError, match=rf"^S3 127\.0\.0\.1:\d+, bucket [\w-]+: .*({told})") as raised:
        async with store("s3", **settings | wrong).open_blobs():
            pass
    for secret in (SECRET, "wr0ng-secret"):
        assert secret not in str(raised.value)


async def test_a_bucket_is_made(settings: dict[str, Any]) -> None:
    """Once, though several daemons start at the same time."""
    named = settings | {"bucket": fresh_directory().strip("/")}

    async def use(i: int) -> None:
        async with store("s3", **named).open_blobs() as blobs:
            await blobs.put(f"a/{i}", chunks(b"1"))
            await blobs.delete(f"a/{i}")

    await asyncio.gather(*(use(i) for i in range(3)))
    client_of(settings).remove_bucket(named["bucket"])


async def test_nobody_listens() -> None:
    port = free_port()
    with pytest.raises(StoreError, match=rf"^S3 127\.0\.0\.1:{port}, bucket {BUCKET}: .*refused"):
        async with store("s3", endpoint=f"127.0.0.1:{port}", bucket=BUCKET, **QUICK).open_blobs():
            pass
    with pytest.raises(StoreError, match=rf"^S3 nowhere\.invalid:80, bucket {BUCKET}: "):
        async with store("s3", endpoint="http://nowhere.invalid", bucket=BUCKET, **QUICK).open_blobs():
            pass


async def test_something_else_listens() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        async with store("s3", endpoint=f"127.0.0.1:{port}", bucket=BUCKET, **QUICK).open_blobs() as blobs:
            with pytest.raises(StoreError, match=rf"^S3 127\.0\.0\.1:{port}, bucket {BUCKET}: "):
                await blobs.list()


async def test_a_blob_that_ends_too_early() -> None:
    """A server that dies in the middle of a blob never makes a shorter blob of it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        size = 0 if head.startswith(b"HEAD") else 1000
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % size)
        writer.write(bytes(size // 2))
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        async with store("s3", endpoint=f"127.0.0.1:{port}", bucket=BUCKET, **QUICK).open_blobs() as blobs:
            with pytest.raises(StoreError, match=rf"^S3 127\.0\.0\.1:{port}, bucket {BUCKET}: .*500"):
                await content(blobs, "a")


async def test_tls(settings: dict[str, Any], tmp_path: Path) -> None:
    behind = int(settings["endpoint"].rpartition(":")[2])
    async with behind_tls(behind, tmp_path) as (port, authority):
        secure = settings | {"endpoint": f"https://localhost:{port}"} | QUICK
        async with store("s3", **secure, tls_ca=str(authority)).open_blobs() as blobs:
            await blobs.put("a", large(6))
            assert len(await content(blobs, "a")) == 6 * MIB
            await blobs.delete("a")
        for wrong, told in (
            ({}, "certificate"),
            ({"tls_ca": str(authority), "endpoint": f"https://127.0.0.1:{port}"}, "certificate|mismatch"),
            ({"tls_ca": str(tmp_path / "none.pem")}, "No such file"),
        ):
            with pytest.raises(StoreError, match=rf"^S3 (localhost|127\.0\.0\.1):{port}, bucket .*({told})"):
                async with store("s3", **secure | wrong).open_blobs():
                    pass


class TestIam:
    """Keys that are found as AWS clients find them."""

    async def test_in_the_environment(self, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", settings["access_key"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", settings["secret_key"])
        await self.works(settings)

    async def test_in_a_file(self, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        file = tmp_path / "credentials"
        file.write_text(f"[default]\naws_access_key_id = {settings['access_key']}\naws_secret_access_key = {settings['secret_key']}\n")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
        await self.works(settings)

    async def test_nowhere(self, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{free_port()}")
        with pytest.raises(StoreError, match=r"^S3 127\.0\.0\.1:\d+, bucket .*(credentials|refused)"):
            await self.works(settings)

    async def works(self, settings: dict[str, Any]) -> None:
        chain = {name: value for name, value in settings.items() if not name.endswith("_key")} | {"use_iam": True} | QUICK
        async with store("s3", **chain).open_blobs() as blobs:
            await blobs.put("a", chunks(b"1"))
            await blobs.delete("a")


@pytest.mark.slow
async def test_a_server_that_is_killed_while_a_blob_is_stored(tmp_path: Path) -> None:
    async with S3Server(tmp_path) as server:
        settings = server.settings | {"prefix": fresh_directory()}
        async with store("s3", **settings, **QUICK).open_blobs() as blobs:
            await blobs.put("stands", chunks(b"1"))

            async def killed() -> AsyncIterator[bytes]:
                sent = 0
                async for chunk in large(20):
                    yield chunk
                    sent += 1
                    if sent == 9:
                        await server.kill()

            told = rf"^S3 127\.0\.0\.1:{server.ports['s3']}, bucket {BUCKET}: "
            with pytest.raises(StoreError, match=told):
                await blobs.put("a", killed())
            for ask in (blobs.info("stands"), content(blobs, "stands"), blobs.list(), blobs.delete("stands"), blobs.put("b", chunks(b"1"))):
                with pytest.raises(StoreError, match=told):
                    await ask
            await server.start()
            assert await content(blobs, "stands") == b"1"
            assert await absent(blobs, "a")
            await blobs.put("a", large(20))
            assert len(await content(blobs, "a")) == 20 * MIB
