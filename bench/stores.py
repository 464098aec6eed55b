"""What stores cost: variables that outlive a job, and large files through the daemon, beside the store's own client."""

import asyncio
import io
import time
from collections.abc import Callable
from typing import Any

import urllib3
from minio import Minio
from nats.aio.client import Client

from . import daemon, jobs, servers
from .jobs import HELLO, Answers
from .measures import Size
from .paced import interleaved, of_jobs
from .samples import Samples, p50

STATE_BYTES = 1 << 20
FILE_BYTES = 100_000_000
KEY = "sk-bench-0123456789"
CHUNK = 256 << 10
_SEEN = f"{STATE_BYTES} True\n"


async def state(samples: Samples, size: Size) -> None:
    """A Python run that finds and leaves 1 MB of variables, over the same run without: stores on disk, and in Redis."""
    async with daemon.serve() as (_, client):
        await _state(samples, size, client, "disk")
    async with servers.redis() as settings, daemon.serve(*settings) as (_, client):
        await _state(samples, size, client, "redis")


async def _state(samples: Samples, size: Size, client: Client, store: str) -> None:
    """Runs in turn: without variables, with 1 MB of them that it only reads, and with as many of which it changes one."""
    answers = Answers()
    made = f'import os; data, n = os.urandom({STATE_BYTES}), 0; print("hi")'  # nothing of it gets smaller by being compressed
    empty, read, changed = [await _session(client, code) for code in ('print("hi")', made, made)]
    plan = {
        f"without_state_{store}_ms": (of_jobs(client, "py", HELLO, answers), 2),
        f"session_{store}_ms": (of_jobs(client, "py", {**HELLO, "session": empty}, answers), 1),
        f"state_1mb_{store}_ms": (of_jobs(client, "py", {**HELLO, "session": read}, answers), 2),
        f"state_1mb_changed_{store}_ms": (of_jobs(client, "py", {"code": 'n += 1; print("hi")', "session": changed}, answers), 2),
    }
    await interleaved(samples, plan, max(2, size.rounds // 4), 0.03)
    _, result = await jobs.ask(client, "py", jobs.body({"code": "print(len(data), n > 0)", "session": changed}), answers, _SEEN)
    without = p50(samples.raw[f"without_state_{store}_ms"])
    for name in (f"session_{store}", f"state_1mb_{store}", f"state_1mb_changed_{store}"):
        samples.result(f"{name}_over_without_ms", p50(samples.raw[f"{name}_ms"]) - without)
    if answers.wrong or result.get("state", {}).get("size", 0) < STATE_BYTES:
        samples.notes[f"state {store}: not right"] = [dict(answers.counts), answers.examples, str(result.get("state"))]


async def _session(client: Client, code: str) -> str:
    result = await jobs.first(client, "py", jobs.body({"code": code, "session": ""}))
    return str(result["session"])


async def transfer(samples: Samples, size: Size) -> None:
    """Files of 100 MB over HTTP into an S3 store and out of it, beside the store's own client, as shares of its speed."""
    length = FILE_BYTES if size.rounds > 100 else FILE_BYTES // 10
    limits = (f"limits.file_bytes={length}", f"files.total_bytes={4 * length}", f"ingress.http.api_key={KEY}")
    content = bytes(length)
    async with servers.s3() as (given, settings), daemon.serve(*settings, *limits) as (runnerd, _):
        store = Minio(given["endpoint"], given["access_key"], given["secret_key"], secure=False)
        through = _Through(runnerd.http, content)
        plan: dict[str, Callable[[], object]] = {
            "upload_client_s": lambda: store.put_object(given["bucket"], "client", io.BytesIO(content), length),
            "upload_s3_s": through.upload,
            "download_client_s": lambda: _read(store.get_object(given["bucket"], "client"), length),
            "download_s3_s": through.download,
        }
        for _ in range(max(1, size.repeats // 4)):
            for name, act in plan.items():
                begin = time.perf_counter()
                await asyncio.to_thread(act)
                samples.add(name, time.perf_counter() - begin)
            await asyncio.to_thread(through.remove)
    for way in ("upload", "download"):
        samples.result(f"{way}_100mb_share_of_client", p50(samples.raw[f"{way}_client_s"]) / p50(samples.raw[f"{way}_s3_s"]))


class _Through:
    """One file on its way through the daemon, by the same library that the store's client uses."""

    def __init__(self, base: str, content: bytes) -> None:
        self._http = urllib3.PoolManager(headers={"x-api-key": KEY})
        self._base = base
        self._content = content
        self._place = ""

    def upload(self) -> None:
        head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="large.bin"\r\n\r\n'
        body = head + self._content + b"\r\n--b--\r\n"
        answer = self._ask("POST", "/upload", body=body, headers={**self._http.headers, "Content-Type": "multipart/form-data; boundary=b"})
        told = answer.json()
        self._place = f"{told['session_id']}/{told['files'][0]['fileId']}"

    def download(self) -> None:
        _read(self._ask("GET", f"/download/{self._place}", preload_content=False), len(self._content))

    def remove(self) -> None:
        self._ask("DELETE", f"/files/{self._place}")

    def _ask(self, method: str, path: str, **more: Any) -> urllib3.BaseHTTPResponse:
        answer = self._http.request(method, self._base + path, **more)
        if answer.status != 200:
            raise RuntimeError(f"{method} {path}: {answer.status} {answer.data[:200]!r}")
        return answer


def _read(response: urllib3.BaseHTTPResponse, length: int) -> None:
    came = 0
    while chunk := response.read(CHUNK):
        came += len(chunk)
    response.release_conn()
    if came != length:
        raise RuntimeError(f"{came} bytes came back of {length}")
