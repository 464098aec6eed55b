"""The HTTP ingress, asked by real clients over real sockets."""

import asyncio
import json
import logging
import signal
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from http_services import HttpServices, ok
from runnerd import ConfigError, Ingress, IngressError, Interrupted, Rejected, Saturated, Stage
from runnerd.plugins import find_plugins

KEY = "sk-0123456789abcdef"
Http = find_plugins().ingress["http"]


def http(**settings: Any) -> Ingress:
    return msgspec.convert({"kind": "http", "port": 0, "api_key": KEY, **settings}, Http)


@asynccontextmanager
async def serving(services: HttpServices, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        http(**settings).open(services) as notice,
        httpx.AsyncClient(base_url=notice.split()[0], headers={"x-api-key": KEY}, timeout=30) as client,
    ):
        yield client


@pytest.fixture
async def services() -> HttpServices:
    return HttpServices()


@pytest.fixture
async def client(services: HttpServices) -> AsyncIterator[httpx.AsyncClient]:
    """The block is entered and left in a task of its own: pytest-asyncio sets up and tears down in two, which task groups refuse."""
    opened: asyncio.Future[httpx.AsyncClient] = asyncio.get_running_loop().create_future()
    done = asyncio.Event()

    async def hold() -> None:
        async with serving(services) as client:
            opened.set_result(client)
            await done.wait()

    holder = asyncio.create_task(hold())
    yield await opened
    done.set()
    await holder


def address(client: httpx.AsyncClient) -> tuple[str, int]:
    assert client.base_url.port is not None
    return client.base_url.host, client.base_url.port


class TestExec:
    async def test_answers_with_the_legacy_fields_and_our_own(self, client: httpx.AsyncClient, services: HttpServices) -> None:
        services.results["print(1)"] = ok(stdout="1\n", stderr="careful")
        answer = await client.post("/exec", json={"lang": "py", "code": "print(1)", "user_id": "u", "unknown": {"x": 1}})
        body = answer.json()
        assert answer.status_code == 200
        assert (body["stdout"], body["stderr"], body["files"], body["has_state"]) == ("1\n", "careful", [], False)
        assert len(body["session_id"]) == 21
        assert body["session_id"].isalnum()
        assert (body["status"], body["exit_code"], body["job_id"]) == ("ok", 0, "j1")
        assert body["sandbox"]["level"] == "strong"
        assert services.jobs[0].tenant == "default"

    async def test_stdout_ends_in_one_newline_and_keeps_its_blanks(self, client: httpx.AsyncClient, services: HttpServices) -> None:
        services.results["x"] = ok(stdout="  a\n\n b")
        assert (await client.post("/exec", json={"lang": "py", "code": "x"})).json()["stdout"] == "  a\n\n b\n"
        assert (await client.post("/exec", json={"lang": "py", "code": "y"})).json()["stdout"] == ""

    @pytest.mark.parametrize(
        ("args", "expected"),
        [(["a b", "c"], ("a b", "c")), ("'a b' c", ("a b", "c")), ([1, 2.5, True], ("1", "2.5", "true")), (None, ()), ([], ())],
    )
    async def test_args_are_a_list_or_a_text(
        self, client: httpx.AsyncClient, services: HttpServices, args: object, expected: tuple[str, ...]
    ) -> None:
        await client.post("/exec", json={"lang": " Python ", "code": "x", "args": args, "stdin": "in"})
        assert services.jobs[0].args == expected
        assert (services.jobs[0].lang, services.jobs[0].stdin) == ("python", "in")

    async def test_the_same_idempotency_key_has_the_same_session(self, client: httpx.AsyncClient, services: HttpServices) -> None:
        answers = [await client.post("/exec", json={"lang": "py", "code": "x"}, headers={"Idempotency-Key": "k1"}) for _ in "ab"]
        assert [job.id for job in services.jobs] == ["k1", "k1"]
        assert answers[0].json()["session_id"] == answers[1].json()["session_id"]

    @pytest.mark.parametrize(
        ("fields", "stderr"),
        [
            ({"status": "failed", "exit_code": 3}, "Code execution failed with exit code 3"),
            ({"status": "failed", "exit_code": 3, "stderr": "Traceback"}, "Traceback"),
            ({"status": "failed", "exit_code": None, "signal": 11}, "Killed by signal 11 (SIGSEGV)"),
            ({"status": "timeout", "reason": "10 s of wall time", "limit": "wall_s"}, "Time limit exceeded: 10 s of wall time"),
            ({"status": "oom", "stderr": "half a line"}, "half a line\n[runnerd] Out of memory"),
            ({"status": "limit", "limit": "files"}, "Limit exceeded: files"),
            ({"stdout": "x", "stdout_truncated": True}, "stdout was cut off"),
        ],
    )
    async def test_what_ended_a_program_is_told_on_stderr(
        self, client: httpx.AsyncClient, services: HttpServices, fields: dict[str, Any], stderr: str
    ) -> None:
        services.results["x"] = ok(**fields)
        answer = await client.post("/exec", json={"lang": "py", "code": "x"})
        assert answer.status_code == 200
        assert stderr in answer.json()["stderr"]
        assert answer.json()["status"] == fields.get("status", "ok")

    async def test_a_compile_error_is_the_compilers_words(self, client: httpx.AsyncClient, services: HttpServices) -> None:
        stage = Stage(exit_code=1, stdout="main.ts(1,1): error\n", stderr="1 error")
        services.results["x"] = ok(status="failed", stage="compile", exit_code=None, compile=stage)
        body = (await client.post("/exec", json={"lang": "py", "code": "x"})).json()
        assert (body["stdout"], body["stderr"]) == ("", "main.ts(1,1): error\n1 error\n")
        assert (body["stage"], body["exit_code"]) == ("compile", 1)

    @pytest.mark.parametrize(
        ("result", "status"),
        [
            (ok(status="rejected", reason="lang: 'zz' is not known here"), 400),
            (ok(status="cancelled"), 409),
            (ok(status="dead", reason="the sandbox went away 3 times"), 502),
            (ok(status="expired", reason="no sandbox was free for 30 s"), 504),
            (Saturated("200 jobs are waiting", retry_after_s=2.5), 503),
            (Interrupted("the daemon stops"), 503),
            (Rejected("id: too long"), 400),
        ],
    )
    async def test_runnerds_failures_are_errors_of_http(
        self, client: httpx.AsyncClient, services: HttpServices, result: Any, status: int
    ) -> None:
        services.results["x"] = result
        answer = await client.post("/exec", json={"lang": "py", "code": "x"})
        body = answer.json()
        assert answer.status_code == status
        assert "stdout" not in body
        assert body["error"]
        if status == 503:
            assert answer.headers["retry-after"] == str(body["retry_after_seconds"])
            assert body["retry_after_seconds"] in (3, 5)
        if status == 400:
            assert body["field"] in ("lang", "id")

    async def test_a_bug_is_a_500_that_tells_nothing(self, client: httpx.AsyncClient, services: HttpServices) -> None:
        services.results["x"] = KeyError("a secret of ours")
        answer = await client.post("/exec", json={"lang": "py", "code": "x"})
        assert answer.status_code == 500
        assert answer.json()["error_type"] == "internal_server"
        assert "secret" not in answer.text

    @pytest.mark.parametrize(
        ("body", "status", "field"),
        [
            (b'{"code": "x"}', 422, "lang"),
            (b'{"lang": "py"}', 422, "code"),
            (b'{"lang": 1, "code": "x"}', 422, "lang"),
            (b'{"lang": "py", "code": "x", "args": ["a", {}]}', 422, "args[1]"),
            (b'{"lang": "py", "code": ""}', 400, "code"),
            (b'{"lang": "py", "code": "x", "args": "\'a"}', 400, "args"),
            (b'{"lang": "py", "code": "x", "files": [{"id": "a"}]}', 400, "files"),
            (b"nope", 422, None),
            (b"[]", 422, None),
            (b"", 422, None),
            (b'{"lang": "\xff", "code": "x"}', 422, None),
            (b"[" * 100_000, 422, None),
        ],
    )
    async def test_a_bad_body_is_told_with_its_field(
        self, client: httpx.AsyncClient, services: HttpServices, body: bytes, status: int, field: str | None
    ) -> None:
        answer = await client.post("/exec", content=body)
        assert (answer.status_code, answer.json().get("field")) == (status, field)
        assert answer.json()["error"]
        assert not services.jobs

    async def test_a_client_that_goes_away_cancels_its_job(self, client: httpx.AsyncClient, services: HttpServices) -> None:
        with pytest.raises(httpx.ReadTimeout):
            await client.post("/exec", json={"lang": "py", "code": "wait"}, timeout=httpx.Timeout(30, read=0.3))
        await asyncio.wait_for(services.ended.wait(), 30)
        assert [job.code for job in services.cancelled] == ["wait"]
        assert (await client.get("/health")).status_code == 200


class TestKeys:
    @pytest.mark.parametrize(
        "headers", [{"x-api-key": KEY}, {"Authorization": f"Bearer {KEY}"}, {"Authorization": f"bearer {KEY}", "x-api-key": "other"}]
    )
    async def test_a_known_key_comes_in(self, client: httpx.AsyncClient, headers: dict[str, str]) -> None:
        host, port = address(client)
        async with httpx.AsyncClient() as other:
            answer = await other.post(f"http://{host}:{port}/exec", json={"lang": "py", "code": "x"}, headers=headers)
        assert answer.status_code == 200

    @pytest.mark.parametrize(
        ("headers", "reason"),
        [
            ({}, "no API key"),
            ({"x-api-key": KEY + "x"}, "not known"),
            ({"Authorization": "Basic abc"}, "no API key"),
            ({"x-api-key": "ä"}, "not known"),
        ],
    )
    async def test_all_others_stay_out(
        self, client: httpx.AsyncClient, services: HttpServices, headers: dict[str, str], reason: str
    ) -> None:
        url = str(client.base_url)
        sent = {name: value.encode() for name, value in headers.items()}
        async with httpx.AsyncClient(base_url=url) as other:
            answer = await other.post("/exec", json={"lang": "py", "code": "x"}, headers=sent)
            assert (await other.get("/health/detailed", headers=sent)).status_code == 401
        assert answer.status_code == 401
        assert reason in answer.json()["error"]
        assert answer.headers["www-authenticate"] == "Bearer"
        assert not services.jobs

    async def test_refusals_are_logged_once_in_a_while_and_without_the_key(
        self, client: httpx.AsyncClient, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        for _ in range(20):
            await client.post("/exec", headers={"x-api-key": "secret-but-wrong"})
        logged = capsys.readouterr().out + caplog.text
        assert logged.count("http_request_refused") == 1
        assert "secret-but-wrong" not in logged
        assert KEY not in logged

    async def test_another_header_and_more_keys(self, services: HttpServices, tmp_path: Path) -> None:
        (tmp_path / "keys").write_text("# ours\nfile-key-0123456789\n\nfile-key-abcdefghij\n")
        keys = [f"@{tmp_path / 'keys'}", "list-key-0123456789"]
        async with serving(services, api_keys=keys, api_key_header="X-Token") as client:
            for key in (KEY, "file-key-0123456789", "file-key-abcdefghij", "list-key-0123456789"):
                assert (await client.post("/exec", json={"lang": "py", "code": "x"}, headers={"X-Token": key})).status_code == 200
            assert (await client.post("/exec", json={"lang": "py", "code": "x"})).status_code == 401

    def test_a_short_key_is_refused_by_its_variable_and_not_shown(self) -> None:
        for variable, settings in (("API_KEY", {"api_key": "short-secret"}), ("API_KEYS", {"api_keys": ["short-secret"]})):
            with pytest.raises(msgspec.ValidationError, match=f"{variable}: .*12 characters.*16") as caught:
                http(**settings)
            assert "short-secret" not in str(caught.value)

    @pytest.mark.parametrize("content", [None, "", "short", "has a blank in it 123"])
    async def test_a_bad_file_of_keys_is_named(self, services: HttpServices, tmp_path: Path, content: str | None) -> None:
        file = tmp_path / "keys"
        if content is not None:
            file.write_text(content)
        with pytest.raises(ConfigError, match=r"API_KEYS \(@.*keys\)"):
            async with http(api_keys=[f"@{file}"]).open(services):
                pass

    def test_settings_do_not_show_their_keys(self) -> None:
        assert KEY not in repr(http(api_keys=["list-key-0123456789"]))
        assert "list-key" not in str(http(api_keys=["list-key-0123456789"]))

    async def test_a_key_is_made_once_and_shown_once(self, services: HttpServices, tmp_path: Path) -> None:
        settings = http(api_key="", state_dir=str(tmp_path / "state"))
        file = tmp_path / "state" / "api-key"
        async with settings.open(services) as notice:
            key = file.read_text().strip()
            assert key in notice
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            async with httpx.AsyncClient(base_url=notice.split()[0], headers={"x-api-key": key}) as client:
                assert (await client.post("/exec", json={"lang": "py", "code": "x"})).status_code == 200
        async with settings.open(services) as notice:
            assert key not in notice
            assert str(file) in notice
        assert [path.name for path in file.parent.iterdir()] == ["api-key"]

    async def test_without_a_place_for_a_key_one_is_asked_for(self, services: HttpServices, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for state_dir in ("", str(tmp_path / "file")):
            with pytest.raises(ConfigError, match="API_KEY"):
                async with http(api_key="", state_dir=state_dir).open(services):
                    pass


class TestLog:
    async def test_a_line_per_answer(self, client: httpx.AsyncClient, capsys: pytest.CaptureFixture[str]) -> None:
        await client.post("/exec?secret=1", json={"lang": "py", "code": "x"})
        await client.get("/nowhere", headers={"x-api-key": "wrong"})
        logged = capsys.readouterr().out
        assert "path=/exec" in logged
        assert "status=200" in logged
        assert "status=404" in logged
        assert "secret" not in logged
        assert KEY not in logged


class TestHealth:
    async def test_health_is_open_and_says_little(self, client: httpx.AsyncClient) -> None:
        answer = await client.get("/health", headers={"x-api-key": ""})
        assert (answer.status_code, answer.json()) == (200, {"status": "healthy"})

    async def test_ready_says_why_not(self, client: httpx.AsyncClient, services: HttpServices) -> None:
        assert (await client.get("/ready")).json() == {"status": "ready", "reasons": []}
        services.room = 0
        assert "free" in (await client.get("/ready")).text
        services.is_draining = True
        answer = await client.get("/ready")
        assert answer.status_code == 503
        assert "draining" in answer.text

    async def test_detailed_health_needs_a_key(self, client: httpx.AsyncClient) -> None:
        assert (await client.get("/health/detailed")).json() == {"level": "strong"}

    async def test_a_draining_daemon_takes_no_jobs(self, client: httpx.AsyncClient, services: HttpServices) -> None:
        services.is_draining = True
        answer = await client.post("/exec", json={"lang": "py", "code": "x"})
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert not services.jobs


class TestBounds:
    async def test_a_large_body_is_refused_before_it_is_read(self, services: HttpServices) -> None:
        async with serving(services, body_bytes=10_000) as client:
            _, writer, head = await _ask(client, "POST /exec", ["Content-Length: 50000000"])
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
            _, writer, head = await _ask(client, "POST /exec", ["Content-Length: 100"])
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
            reader, writer, head = await _ask(client, "GET /health", ["Content-Length: 0"])
            assert b" 200 " in head
            await asyncio.wait_for(reader.read(), 30)
            writer.close()

    async def test_connections_are_counted(self, services: HttpServices) -> None:
        async with serving(services, connections=2) as client, AsyncExitStack() as stack:
            for _ in range(2):
                _, writer, head = await _ask(client, "GET /health", [])
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
                reader, writer, _ = await _ask(client, "GET /health", [])
                request, waiting = await _start(client, {"lang": "py", "code": "wait"})
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


class TestPages:
    async def test_the_description_is_there_when_asked_for(self, services: HttpServices) -> None:
        async with serving(services, docs=True) as client:
            assert (await client.get("/docs", follow_redirects=True)).status_code == 200
            description = (await client.get("/docs/openapi.json")).json()
        assert {"/exec", "/health", "/ready"} <= set(description["paths"])
        assert {"401", "503"} <= set(description["paths"]["/exec"]["post"]["responses"])

    async def test_it_is_not_there_by_default(self, client: httpx.AsyncClient) -> None:
        for path in ("/docs", "/docs/openapi.json", "/openapi.json", "/schema"):
            answer = await client.get(path)
            assert answer.status_code == 404
            assert answer.json()["error"]

    async def test_other_origins(self, services: HttpServices) -> None:
        ask = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
        async with serving(services) as client:
            assert "access-control-allow-origin" not in (await client.options("/exec", headers=ask)).headers
        async with serving(services, cors=True, cors_origins=["https://a.example"]) as client:
            answer = await client.options("/exec", headers=ask)
            assert answer.status_code == 204
            assert answer.headers["access-control-allow-origin"] == "https://a.example"
            assert "access-control-allow-credentials" not in answer.headers
            other = await client.options("/exec", headers={**ask, "Origin": "https://b.example"})
            assert "access-control-allow-origin" not in other.headers
        async with serving(services, cors=True) as client:
            answer = await client.post("/exec", json={"lang": "py", "code": "x"}, headers={"Origin": "https://b.example"})
            assert answer.headers["access-control-allow-origin"] == "*"

    async def test_a_wrong_method_is_told(self, client: httpx.AsyncClient) -> None:
        answer = await client.get("/exec")
        assert answer.status_code == 405
        assert answer.json()["error"]


async def _start(client: httpx.AsyncClient, asked: dict[str, str]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a job; doesn't wait for the answer."""
    reader, writer = await asyncio.open_connection(*address(client))
    body = json.dumps(asked)
    head = f"POST /exec HTTP/1.1\r\nHost: localhost\r\nx-api-key: {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write((head + body).encode())
    return reader, writer


async def _ask(client: httpx.AsyncClient, line: str, headers: list[str]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
    """Send a request's head with the key; returns once the answer's head is there."""
    reader, writer = await asyncio.open_connection(*address(client))
    lines = [f"{line} HTTP/1.1", "Host: localhost", f"x-api-key: {KEY}", *headers, "", ""]
    writer.write("\r\n".join(lines).encode())
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
    length = next((int(part.split(b":")[1]) for part in head.split(b"\r\n") if part.lower().startswith(b"content-length:")), 0)
    await reader.readexactly(length)
    return reader, writer, head
