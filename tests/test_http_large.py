"""Large files over HTTP through a daemon of its own process: its memory does not grow with them."""

import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from s3_fixture import s3_settings
from serving import serving

KEY = "sk-0123456789abcdef"
CHUNK = bytes(range(256)) * 4096
NUMBER = 200
HEAD = b'--b\r\nContent-Disposition: form-data; name="file"; filename="large.bin"\r\n\r\n'
TAIL = b"\r\n--b--\r\n"
MOST_GROWTH = 32 << 20


def peak(pid: int) -> int:
    """The most memory that a process has ever had, in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


async def body(number: int) -> AsyncIterator[bytes]:
    yield HEAD
    for _ in range(number):
        yield CHUNK
    yield TAIL


async def there_and_back(client: httpx.AsyncClient, number: int) -> None:
    """Upload so many chunks, download them, and see that they are the same."""
    length = len(HEAD) + number * len(CHUNK) + len(TAIL)
    headers = {"Content-Type": "multipart/form-data; boundary=b", "Content-Length": str(length)}
    answer = await client.post("/upload", content=body(number), headers=headers)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    digest, wanted = hashlib.sha256(), hashlib.sha256()
    for _ in range(number):
        wanted.update(CHUNK)
    async with client.stream("GET", f"/download/{told['session_id']}/{told['files'][0]['fileId']}") as download:
        async for piece in download.aiter_raw():
            digest.update(piece)
    assert digest.digest() == wanted.digest()


@pytest.mark.slow
@pytest.mark.parametrize("blobs", ["disk", "s3"])
async def test_a_file_of_200_mb_costs_the_daemon_no_memory(blobs: str, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        flags = [f"ingress.http.api_key={KEY}", "limits.file_bytes=1GB", "files.total_bytes=1GB", "isolation.minimum=process"]
        if blobs == "s3":
            s3 = await stack.enter_async_context(s3_settings(tmp_path / "s3"))
            flags += [f"store.blob.{name}={value}" for name, value in {"kind": "s3", **s3}.items()]
        daemon = await stack.enter_async_context(serving(tmp_path / "daemon", *flags))
        await daemon.until("http")
        base = daemon.said["http"].split()[0]
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=base, headers={"x-api-key": KEY}, timeout=120))
        await there_and_back(client, 4)
        before = peak(daemon.process.pid)
        await there_and_back(client, NUMBER)
        assert peak(daemon.process.pid) - before < MOST_GROWTH
