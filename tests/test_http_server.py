"""The HTTP listener: its bounds, and how it begins and ends."""

import asyncio
import json
import logging
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx
import pytest

from hosting import hosted
from http_services import KEY, HttpServices, address, ask, http, ok, serving, start
from runnerd import IngressError


@pytest.fixture
async def services() -> HttpServices:
    return HttpServices()


@pytest.fixture
async def client(services: HttpServices) -> AsyncIterator[httpx.AsyncClient]:
    async with hosted(serving(services)) as client:
        yield client


class TestBounds:
    async def test_a_large_body_is_refused_before_it_is_read(self, services: HttpServices) -> None:
        async with serving(services, body_bytes=10_000) as client:
            _, writer, head = await ask(client, "POST /exec", ["Content-Length: 50000000"])
            assert b" 413 " in head
            assert b"connection: close" in head.lower()
            writer.close()

    async def test_a_large_body_without_a_length_is_cut_off(self, services: HttpServices) -> None:
        sent = 0

        async def endless() -> AsyncIterator[bytes]:
            nonlocal sent
            while sent < 500_000_000:
                sent += 100_000
                yield b"x" * 100_000

        async with serving(services, body_bytes=1_000_000) as client:
            try:
                answer = await client.post("/exec", content=endless())
            except httpx.TransportError:
                pass  # closed while we still wrote, and the answer lost with it
            else:
                assert answer.status_code == 413
                assert "API_MAX_BODY_BYTES" in answer.json()["error"]
            assert sent < 100_000_000
            assert (await client.get("/health")).status_code == 200

    async def test_a_body_at_the_limit_is_taken(self, services: HttpServices) -> None:
        async with serving(services, body_bytes=5000) as client:
            body = json.dumps({"lang": "py", "code": "x"}).encode()
            assert (await client.post("/exec", content=body.ljust(5000))).status_code == 200
            assert (await client.post("/exec", content=body.ljust(5001))).status_code == 413

    async def test_a_slow_head_is_closed(self, services: HttpServices) -> None:
        async with serving(services, head_timeout_s=0.2) as client:
            for start in (b"", b"POST /exec HT"):
                reader, writer = await asyncio.open_connection(*address(client))
                writer.write(start)
                assert await asyncio.wait_for(reader.read(), 30) == b""
                writer.close()

    async def test_a_dripping_head_is_closed_as_well(self, services: HttpServices) -> None:
        async with serving(services, head_timeout_s=0.3) as client:
            reader, writer = await asyncio.open_connection(*address(client))
            closed = asyncio.create_task(reader.read())
            writer.write(b"GET /health HTTP/1.1\r\n")
            while not closed.done():
                writer.write(b"X-A: b\r\n")
                await asyncio.wait([closed], timeout=0.05)
            assert closed.exception() is not None or closed.result() == b""
            writer.close()

    async def test_a_slow_body_is_a_408(self, services: HttpServices) -> None:
        async with serving(services, body_timeout_s=0.2) as client:
            _, writer, head = await ask(client, "POST /exec", ["Content-Length: 100"])
            assert b" 408 " in head
            writer.close()

    async def test_a_job_may_take_longer_than_a_head(self, services: HttpServices) -> None:
        async with serving(services, head_timeout_s=0.1, body_timeout_s=0.1) as client:
            task = asyncio.create_task(client.post("/exec", json={"lang": "py", "code": "wait"}))
            await services.arrived.wait()
            await asyncio.sleep(0.5)  # several of the bounds that must not count here
            services.release.set()
            assert (await task).status_code == 200

    async def test_an_idle_connection_is_kept_and_then_closed(self, services: HttpServices) -> None:
        async with serving(services, keep_alive_s=0.2) as client:
            reader, writer, head = await ask(client, "GET /health", ["Content-Length: 0"])
            assert b" 200 " in head
            await asyncio.wait_for(reader.read(), 30)
            writer.close()

    async def test_connections_are_counted(self, services: HttpServices) -> None:
        async with serving(services, connections=2) as client, AsyncExitStack() as stack:
            for _ in range(2):
                _, writer, head = await ask(client, "GET /health", [])
                stack.callback(writer.close)
                assert b" 200 " in head
            with pytest.raises(httpx.TransportError):
                await client.get("/health")

    async def test_not_http_at_all(self, client: httpx.AsyncClient) -> None:
        reader, writer = await asyncio.open_connection(*address(client))
        writer.write(b"\x16\x03\x01 hello\r\n\r\n")
        assert b" 400 " in await asyncio.wait_for(reader.read(), 30)
        writer.close()


class TestListener:
    async def test_a_taken_port_is_named(self, services: HttpServices) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(IngressError, match=rf"127\.0\.0\.1 port {port}: .*in use.*API_PORT"):
                async with http(port=port).open(services):
                    pass

    async def test_an_unknown_host_is_named(self, services: HttpServices) -> None:
        with pytest.raises(IngressError, match=r"no-such-host\.invalid"):
            async with http(host="no-such-host.invalid").open(services):
                pass

    async def test_ipv6(self, services: HttpServices) -> None:
        try:
            async with serving(services, host="::1") as client:
                assert (await client.get("/health")).status_code == 200
        except IngressError as error:
            pytest.skip(f"no IPv6 here: {error}")

    async def test_leaving_finishes_what_is_in_hand(self, services: HttpServices) -> None:
        services.results["wait"] = ok(stdout="done")
        async with asyncio.TaskGroup() as tasks:
            async with serving(services) as client:
                host, port = address(client)
                reader, writer, _ = await ask(client, "GET /health", [])
                request, waiting = await start(client, {"lang": "py", "code": "wait"})
                await services.arrived.wait()

                async def release() -> None:
                    assert await asyncio.wait_for(reader.read(), 30) == b""  # an idle connection doesn't hold it up
                    with pytest.raises(ConnectionRefusedError):
                        await asyncio.open_connection(host, port)
                    services.release.set()

                tasks.create_task(release())
            assert b" 200 " in await asyncio.wait_for(request.readuntil(b"\r\n\r\n"), 30)
            assert b'"done\\n"' in await asyncio.wait_for(request.read(), 30)
            writer.close()
            waiting.close()
        assert not services.cancelled

    async def test_cancelled_it_cancels_what_is_in_hand(self, services: HttpServices, caplog: pytest.LogCaptureFixture) -> None:
        listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def serve() -> None:
            async with http().open(services) as notice:
                listening.set_result(notice.split()[0])
                await asyncio.Event().wait()

        server = asyncio.create_task(serve())
        async with httpx.AsyncClient(base_url=await listening, headers={"x-api-key": KEY}, timeout=30) as client:
            request = asyncio.create_task(client.post("/exec", json={"lang": "py", "code": "wait"}))
            await services.arrived.wait()
            server.cancel()
            with pytest.raises(asyncio.CancelledError):
                await server
            answer = await request
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert len(services.cancelled) == 1
        assert not caplog.records

    async def test_the_blocks_own_error_comes_out_as_it_is(self, services: HttpServices) -> None:
        with pytest.raises(ZeroDivisionError):
            async with http().open(services):
                raise ZeroDivisionError

    async def test_signals_and_logging_stay_as_they_were(self, services: HttpServices) -> None:
        before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT), list(logging.getLogger().handlers)
        async with http().open(services):
            after = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT), list(logging.getLogger().handlers)
            assert not logging.getLogger("uvicorn").handlers
        assert before == after

    async def test_many_at_once(self, client: httpx.AsyncClient) -> None:
        async def one() -> int:
            return (await client.post("/exec", json={"lang": "py", "code": "x"})).status_code

        assert set(await asyncio.gather(*(one() for _ in range(100)))) == {200}
