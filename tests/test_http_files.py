"""Files and state over HTTP, through a real daemon and real sandboxes: what LibreChat and other clients do."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest

from hosting import hosted
from runnerd.config import load_config
from runnerd.daemon import Daemon, open_daemon
from runnerd.plugins import find_plugins

UNKNOWN = "x" * 21
BOUNDARY = {"Content-Type": "multipart/form-data; boundary=b"}


@pytest.fixture(scope="module")
async def daemon(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Daemon]:
    directory = tmp_path_factory.mktemp("http")
    plugins = find_plugins()
    flags = [
        f"state_dir={directory}",
        "ingress.nats.enabled=false",
        "ingress.http.port=0",
        "ingress.http.api_key=sk-0123456789abcdef",
        "isolation.minimum=process",
        "limits.file_bytes=1MB",
        "files.most=5",
    ]
    settings = load_config(plugins, flags=flags, environ={}, directory=directory).settings
    only = msgspec.structs.replace(plugins, languages={code: plugins.languages[code] for code in ("py", "bash")})
    async with hosted(open_daemon(settings, only)) as daemon:
        yield daemon


@pytest.fixture
async def client(daemon: Daemon) -> AsyncIterator[httpx.AsyncClient]:
    base = daemon.addresses["http"].split()[0]
    async with httpx.AsyncClient(base_url=base, headers={"x-api-key": "sk-0123456789abcdef"}, timeout=60) as client:
        yield client


async def run(client: httpx.AsyncClient, code: str, **fields: Any) -> dict[str, Any]:
    answer = await client.post("/exec", json={"lang": "py", "code": code, **fields})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def upload(client: httpx.AsyncClient, name: str, content: bytes, **fields: str) -> dict[str, Any]:
    answer = await client.post("/upload", data=fields, files={"file": (name, content)})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


class TestFiles:
    async def test_an_upload_is_there_for_a_program(self, client: httpx.AsyncClient) -> None:
        body = await upload(client, "data/Größe 1.csv", b"a,b\n1,2\n", kind="user", id="u1")
        assert body["message"] == "success"
        assert body["session_id"] == body["storage_session_id"]
        assert body["files"][0]["filename"] == "data/Größe 1.csv"
        file = body["files"][0]["fileId"]
        assert (len(body["session_id"]), len(file)) == (21, 21)
        ref = {"id": file, "session_id": body["session_id"], "name": "data/Größe 1.csv"}
        done = await run(client, "print(open('data/Größe 1.csv').read())", files=[ref])
        assert done["stdout"] == "a,b\n1,2\n\n"
        assert done["files"] == [], "a file that was not changed is not listed"

    async def test_output_is_there_the_moment_the_answer_is(self, client: httpx.AsyncClient) -> None:
        done = await run(client, "import os; os.makedirs('sub'); open('sub/out.txt', 'w').write('x' * 1000); open('empty', 'w').close()")
        assert {file["name"] for file in done["files"]} == {"sub/out.txt", "empty"}
        (file,) = [file for file in done["files"] if file["name"] == "sub/out.txt"]
        assert file["session_id"] == file["storage_session_id"] == done["session_id"]
        got = await client.get(f"/v1//download/{done['session_id']}/{file['id']}?kind=user&id=x")
        assert (got.status_code, got.content) == (200, b"x" * 1000)
        assert got.headers["content-type"].startswith("text/plain")
        assert got.headers["content-disposition"] == "attachment; filename=\"out.txt\"; filename*=UTF-8''out.txt"
        assert got.headers["content-length"] == "1000"

    async def test_an_edited_input_is_a_new_version(self, client: httpx.AsyncClient) -> None:
        body = await upload(client, "notes.md", b"one\n")
        first = body["files"][0]["fileId"]
        ref = {"id": first, "storage_session_id": body["session_id"], "name": "notes.md"}
        done = await run(client, "open('notes.md', 'a').write('two\\n')", files=[ref])
        (file,) = done["files"]
        assert file["id"] != first
        assert file["modified_from"] == {"id": first, "storage_session_id": body["session_id"]}
        assert (await client.get(f"/download/{done['session_id']}/{file['id']}")).text == "one\ntwo\n"
        assert (await client.get(f"/download/{body['session_id']}/{first}")).text == "one\n", "the former one can still be had"

    async def test_ranges_and_conditions(self, client: httpx.AsyncClient) -> None:
        content = bytes(range(256)) * 100
        body = await upload(client, "b.bin", content)
        path = f"/download/{body['session_id']}/{body['files'][0]['fileId']}"
        head = await client.head(path)
        assert (head.status_code, head.headers["content-length"], head.content) == (200, "25600", b"")
        assert head.headers["etag"] == f'"{hashlib.sha256(content).hexdigest()}"'
        for asked, start, end in (("0-99", 0, 100), ("25000-", 25000, 25600), ("-10", 25590, 25600), ("100-999999", 100, 25600)):
            got = await client.get(path, headers={"Range": f"bytes={asked}"})
            assert (got.status_code, got.content) == (206, content[start:end])
            assert got.headers["content-range"] == f"bytes {start}-{end - 1}/25600"
        assert (await client.get(path, headers={"Range": "bytes=25600-"})).status_code == 416
        for ignored in ("bytes=0-1,3-4", "lines=1-2", "bytes=5-2", "bytes=-"):
            assert (await client.get(path, headers={"Range": ignored})).content == content
        assert (await client.get(path, headers={"If-None-Match": head.headers["etag"]})).status_code == 304
        changed = {"Range": "bytes=0-1", "If-Range": '"other"'}
        assert (await client.get(path, headers=changed)).content == content

    async def test_lists_and_freshness(self, client: httpx.AsyncClient) -> None:
        body = await upload(client, "a.txt", b"12345")
        session, file = body["session_id"], body["files"][0]["fileId"]
        (full,) = (await client.get(f"/files/{session}")).json()
        assert full["name"] == f"{session}/{file}.txt"
        assert (full["size"], full["contentType"], full["metadata"]["original-filename"]) == (5, "text/plain", "a.txt")
        (simple,) = (await client.get(f"/files/{session}?detail=simple")).json()
        assert simple == {"id": file, "name": "a.txt", "path": "a.txt"}
        (summary,) = (await client.get(f"/files/{session}?detail=summary")).json()
        assert summary["name"].startswith(f"{session}/{file}")
        assert summary["lastModified"].endswith("Z")
        (normalized,) = (await client.get(f"/files/{session}?detail=normalized")).json()
        assert normalized["storage_session_id"] == session
        found = (await client.get(f"/sessions/{session}/objects/{file}?kind=user&id=u")).json()
        assert (found["lastModified"], found["originalFilename"]) == (summary["lastModified"], "a.txt")
        assert (await client.get(f"/files/{UNKNOWN}")).json() == []
        missing = await client.get(f"/sessions/{session}/objects/{UNKNOWN}")
        assert (missing.status_code, missing.json()["error_type"]) == (404, "resource_not_found")

    @pytest.mark.parametrize("path", ["/sessions/{}/objects/{}", "/files/{}/{}"])
    async def test_deleted_files_are_gone(self, client: httpx.AsyncClient, path: str) -> None:
        body = await upload(client, "a.txt", b"1")
        session, file = body["session_id"], body["files"][0]["fileId"]
        assert (await client.delete(path.format(session, file))).status_code == 200
        assert (await client.delete(path.format(session, file))).status_code == 404
        assert (await client.get(f"/download/{session}/{file}")).status_code == 404

    async def test_an_unknown_reference_is_refused(self, client: httpx.AsyncClient) -> None:
        for ref in ({"id": UNKNOWN, "session_id": UNKNOWN, "name": "a"}, {"id": UNKNOWN, "name": "a"}):
            answer = await client.post("/exec", json={"lang": "py", "code": "print(1)", "files": [ref]})
            assert answer.status_code == 403, answer.text
            assert answer.json()["error_type"] == "authorization"

    async def test_a_batch_stores_what_it_can(self, client: httpx.AsyncClient) -> None:
        files = [("file", (name, content)) for name, content in (("skills/a/SKILL.md", b"1"), ("big", bytes(2 << 20)), ("b", b"2"))]
        answer = await client.post("/upload/batch", data={"kind": "skill", "id": "s1", "version": "1", "read_only": "true"}, files=files)
        body = answer.json()
        assert (answer.status_code, body["message"], body["succeeded"], body["failed"]) == (200, "partial_success", 2, 1)
        assert [file["status"] for file in body["files"]] == ["success", "error", "success"]
        assert [file["filename"] for file in body["files"]] == ["skills/a/SKILL.md", "big", "b"]
        assert "MAX_FILE_SIZE_MB" in body["files"][1]["error"] or "file_bytes" in body["files"][1]["error"]
        listed = (await client.get(f"/files/{body['session_id']}?detail=simple&kind=skill&id=s1")).json()
        assert {file["name"] for file in listed} == {"skills/a/SKILL.md", "b"}
        assert (await client.get(f"/files/{body['session_id']}?kind=agent&id=other")).json() == [], "another entity's are not shown"

    async def test_limits_are_named_and_leave_nothing(self, client: httpx.AsyncClient, daemon: Daemon) -> None:
        answer = await client.post("/upload", files={"file": ("big", bytes(2 << 20))})
        assert (answer.status_code, answer.json()["error_type"]) == (413, "resource_exhausted")
        assert "file_bytes" in answer.json()["error"]
        many = [("files", (f"{i}.txt", b"1")) for i in range(6)]
        answer = await client.post("/upload", files=many)
        assert answer.status_code == 413, answer.text

    async def test_chunked_uploads_without_a_length(self, client: httpx.AsyncClient) -> None:
        async def body() -> AsyncIterator[bytes]:
            yield b'--b\r\nContent-Disposition: form-data; name="entity_id"\r\n\r\nagent_1\r\n--b\r\n'
            yield b'Content-Disposition: form-data; name="file"; filename="sub/\xc3\xa9.txt"\r\nContent-Type: text/x-test\r\n\r\nhe'
            await asyncio.sleep(0)
            yield b"llo\r\n--b--\r\n"

        answer = await client.post("/upload", content=body(), headers={"Content-Type": "multipart/form-data; boundary=b"})
        assert answer.status_code == 200, answer.text
        (file,) = answer.json()["files"]
        assert file["filename"] == "sub/é.txt"
        got = await client.get(f"/download/{answer.json()['session_id']}/{file['fileId']}?entity_id=agent_1")
        assert (got.content, got.headers["content-type"]) == (b"hello", "text/x-test")

    @pytest.mark.parametrize(
        ("headers", "content", "status"),
        [
            ({"Content-Type": "application/json"}, b"{}", 422),
            ({"Content-Type": "multipart/form-data"}, b"", 422),
            (BOUNDARY, b"", 422),
            (BOUNDARY, b"--b\r\nnonsense", 422),
            (
                {"Content-Type": "multipart/form-data; boundary=b"},
                b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--b--\r\n",
                422,
            ),
            (
                {"Content-Type": "multipart/form-data; boundary=b"},
                b"--b\r\nContent-Disposition: form-data; name=file; filename=a\r\n\r\n1",
                422,
            ),
        ],
    )
    async def test_a_bad_upload_is_told(self, client: httpx.AsyncClient, headers: dict[str, str], content: bytes, status: int) -> None:
        answer = await client.post("/upload", content=content, headers=headers)
        assert (answer.status_code, answer.json()["error_type"]) == (status, "validation"), answer.text

    async def test_no_route_without_a_key(self, client: httpx.AsyncClient) -> None:
        for method, path in (
            ("GET", "/files/x"),
            ("POST", "/upload"),
            ("GET", "/download/a/b"),
            ("GET", "/state/a"),
            ("DELETE", "/files/a/b"),
        ):
            answer = await client.request(method, path, headers={"x-api-key": "sk-wrong-wrong-wrong"})
            assert answer.status_code == 401, path


class TestState:
    async def test_variables_persist_in_a_session(self, client: httpx.AsyncClient) -> None:
        first = await run(client, "x = 41\ndef f(): return x + 1")
        assert first["has_state"]
        assert first["state_size"] > 0
        second = await run(client, "print(f())", session_id=first["session_id"])
        assert (second["stdout"], second["session_id"]) == ("42\n", first["session_id"])
        assert "NameError" in (await run(client, "print(x)"))["stderr"], "not in another session"

    async def test_a_snapshot_can_be_taken_along(self, client: httpx.AsyncClient) -> None:
        session = (await run(client, "x = 1"))["session_id"]
        got = await client.get(f"/state/{session}")
        assert got.status_code == 200
        report = (await client.get(f"/state/{session}/info")).json()
        assert (report["exists"], report["size_bytes"], f'"{report["hash"]}"') == (True, len(got.content), got.headers["etag"])
        assert (await client.get(f"/state/{session}", headers={"If-None-Match": got.headers["etag"]})).status_code == 304
        other = (await run(client, "y = 2"))["session_id"]
        put = await client.post(f"/state/{other}", content=got.content)
        assert (put.status_code, put.json()["size"]) == (201, len(got.content))
        assert (await run(client, "print(x)", session_id=other))["stdout"] == "1\n"
        late = await client.put(f"/state/{other}", content=got.content, headers={"If-Match": '"of-before"'})
        assert (late.status_code, late.json()["error_type"]) == (409, "resource_conflict")

    async def test_forgotten_state_is_gone(self, client: httpx.AsyncClient) -> None:
        session = (await run(client, "x = 1"))["session_id"]
        for _ in range(2):
            assert (await client.delete(f"/state/{session}")).status_code == 204
        assert (await client.get(f"/state/{session}")).status_code == 404
        assert (await client.get(f"/state/{session}/info")).json()["exists"] is False
        assert (await client.delete(f"/state/{UNKNOWN}")).status_code == 204
        assert "NameError" in (await run(client, "print(x)", session_id=session))["stderr"]

    async def test_an_unknown_session_is_a_new_one_and_told(self, client: httpx.AsyncClient) -> None:
        done = await run(client, "print(1)", session_id=UNKNOWN)
        assert done["session_id"] != UNKNOWN
        assert done["warnings"]
        assert done["stderr"] == "", "clients take it for the program's"
