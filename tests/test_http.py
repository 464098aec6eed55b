"""The HTTP ingress, asked by real clients over real sockets: jobs, health, the pages beside them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from hosting import hosted
from http_services import KEY, HttpServices, ok, serving
from runnerd import Interrupted, Rejected, Saturated, Stage
from runnerd.config import load_config
from runnerd.daemon import open_daemon
from runnerd.plugins import find_plugins


@pytest.fixture
async def services() -> HttpServices:
    return HttpServices()


@pytest.fixture
async def client(services: HttpServices) -> AsyncIterator[httpx.AsyncClient]:
    async with hosted(serving(services)) as client:
        yield client


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
            (b'{"lang": "py", "code": "x", "files": [{"name": "a"}]}', 422, "files[0]"),
            (b'{"lang": "py", "code": "x", "timeout": 0}', 400, "timeout"),
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
        services.state["refuses"] = "level process, and strong is needed"
        assert "strong is needed" in (await client.get("/ready")).text
        services.state["refuses"] = ""
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


async def test_a_job_through_a_real_daemon(tmp_path: Path) -> None:
    plugins = find_plugins()
    flags = [f"state_dir={tmp_path}", "ingress.nats.enabled=false", "ingress.http.port=0", "pool.warm_at_start=false"]
    settings = load_config(plugins, flags=[*flags, "isolation.minimum=process"], environ={}, directory=tmp_path).settings
    only = msgspec.structs.replace(plugins, languages={"py": plugins.languages["py"]})
    async with open_daemon(settings, only) as daemon:
        key = (tmp_path / "api-key").read_text().strip()
        async with httpx.AsyncClient(base_url=daemon.addresses["http"].split()[0], headers={"x-api-key": key}, timeout=60) as client:
            code = "import sys; print(sys.argv[1:], input()); print('e', file=sys.stderr); sys.exit(3)"
            job = {"lang": "python", "code": code, "args": ["a"], "stdin": "in"}
            body = (await client.post("/exec", json=job)).json()
            assert (body["stdout"], body["stderr"], body["status"], body["exit_code"]) == ("['a'] in\n", "e\n", "failed", 3)
            body = (await client.post("/exec", json={"lang": "py", "code": "import os; os.kill(os.getpid(), 11)"})).json()
            assert "SIGSEGV" in body["stderr"]
            answer = await client.post("/exec", json={"lang": "cobol", "code": "x"})
            assert (answer.status_code, answer.json()["field"]) == (400, "lang")
            assert (await client.get("/ready")).status_code == 200
            assert (await client.get("/health/detailed")).json()["executor"]["name"] == "local"
