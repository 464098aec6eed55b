"""The hardened client: what is published at once is written at once, in its turn, and no faster than the server takes it."""

import asyncio
import signal
from pathlib import Path

import pytest
from nats.aio.msg import Msg
from runnerd_plugins.ingress.nats.client import HardClient

from nats_fixture import nats_client, nats_server, wait_until

PIECE = bytes(256 << 10)


async def test_what_is_published_at_once_is_written_in_its_turn(tmp_path: Path) -> None:
    async with nats_server(tmp_path) as server, nats_client(server.url) as reader:
        came: list[bytes] = []

        async def note(msg: Msg) -> None:
            came.append(msg.data)

        await reader.subscribe("s", cb=note)
        await reader.flush()
        client = HardClient(lambda: None)
        await client.connect(server.url)
        try:
            await client.publish("s", b"1")
            assert client.pending_data_size > 0
            await client.publish_at_once("s", b"2", {"A": "b"})
            assert client.pending_data_size == 0
            await client.publish("s", b"3")
            assert client.pending_data_size > 0
            await wait_until(lambda: len(came) == 3, "all messages")
            assert came == [b"1", b"2", b"3"]
        finally:
            await client.close()


async def test_much_is_written_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runnerd_plugins.ingress.nats.client.OFTEN_S", 60.0)
    async with nats_server(tmp_path) as server, nats_client(server.url) as reader:
        numbers: list[int] = []

        async def note(msg: Msg) -> None:
            numbers.append(int(msg.data))

        await reader.subscribe("s", cb=note)
        await reader.flush()
        client = HardClient(lambda: None)
        await client.connect(server.url)
        try:
            waiting = []
            for number in range(5):
                await client.publish_at_once("s", b"%d" % number, {})
                waiting.append(client.pending_data_size)
            assert waiting[0] == 0 < waiting[1] < waiting[4]
            await wait_until(lambda: len(numbers) == 5, "all messages")
            assert numbers == list(range(5))
        finally:
            await client.close()


async def test_a_server_that_takes_nothing_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runnerd_plugins.ingress.nats.client.OFTEN_S", 0.0)
    async with nats_server(tmp_path) as server, nats_client(server.url, pending_size=64 << 20) as reader:
        numbers: list[int] = []

        async def note(msg: Msg) -> None:
            numbers.append(int(msg.data[:4]))

        await reader.subscribe("s", cb=note)
        await reader.flush()
        client = HardClient(lambda: None)
        await client.connect(server.url, pending_size=64 << 20)
        assert server.process is not None
        try:
            server.process.send_signal(signal.SIGSTOP)
            count = 0
            async with asyncio.timeout(30):
                while client.pending_data_size < 4 * len(PIECE):  # what the sockets take is gone, and the rest waits with us
                    await client.publish_at_once("s", b"%04d" % count + PIECE, {})
                    count += 1
                    await asyncio.sleep(0)
            server.process.send_signal(signal.SIGCONT)
            await wait_until(lambda: len(numbers) == count, "all messages")
            assert numbers == list(range(count))
        finally:
            server.process.send_signal(signal.SIGCONT)
            await client.close()
