"""Bodies that came compressed, and those that only say so."""

import gzip
import re
import sys

import pytest
from backports import zstd

from runnerd import Delivery, Job, Rejected, encode
from runnerd.arrival import plain
from runnerd.encoding import decompressed

BODY = encode(Job(lang="py", code="print('hi')" * 100))


@pytest.mark.parametrize(
    ("encoding", "body"),
    [("", BODY), ("identity", BODY), ("gzip", gzip.compress(BODY)), (" GZip", gzip.compress(BODY)), ("zstd", zstd.compress(BODY))],
)
def test_what_was_compressed_comes_out_as_it_was(encoding: str, body: bytes) -> None:
    assert decompressed(body, encoding, len(BODY)) == BODY


REFUSED = {
    "unknown": ("br", b"", "content encoding 'br' is not known: use gzip or zstd"),
    "two": ("gzip, zstd", b"", "is not known"),
    "no gzip": ("gzip", BODY, "body: not gzip"),
    "no zstd": ("zstd", BODY, "body: not zstd"),
    "cut gzip": ("gzip", gzip.compress(BODY)[:-5], "body: does not end where its gzip stream ends"),
    "cut zstd": ("zstd", zstd.compress(BODY)[:-5], "body: does not end where its zstd stream ends"),
    "empty": ("gzip", b"", "body: does not end"),
    "two streams": ("gzip", gzip.compress(b"a") * 2, "send exactly one stream"),
    "gzip bomb": ("gzip", gzip.compress(b"\0" * (1 << 24)), "body: more than 65536 bytes once it is decompressed"),
    "zstd bomb": ("zstd", zstd.compress(b"\0" * (1 << 24)), "body: more than 65536 bytes once it is decompressed"),
    "wide window": ("zstd", zstd.compress(BODY * 20_000, options={zstd.CompressionParameter.window_log: 24}), "a window above 8 MiB"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_fix(case: str) -> None:
    encoding, body, reason = REFUSED[case]
    with pytest.raises(Rejected, match=re.escape(reason)):
        decompressed(body, encoding, 65_536)


def test_a_daemon_without_zstd_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "backports.zstd", None)
    with pytest.raises(Rejected, match="not installed at this daemon"):
        decompressed(zstd.compress(BODY), "zstd", 65_536)


async def test_a_delivery_is_decompressed_once() -> None:
    came = await plain(Delivery(body=gzip.compress(BODY), content_encoding="gzip"), 65_536)
    assert isinstance(came, Delivery)
    assert (came.body, came.content_encoding) == (BODY, "")
    assert await plain(came, 1) is came
