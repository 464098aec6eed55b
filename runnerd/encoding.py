"""Bodies that came compressed. Plain code, no I/O; a body is never larger than the bound that it is read with."""

import importlib
import zlib
from types import ModuleType

from .errors import Rejected

ENCODINGS = ("gzip", "zstd")
"""Values of Content-Encoding, besides `identity`. `zstd` needs `pip install 'runnerd[zstd]'`."""

_GZIP = 16 + zlib.MAX_WBITS
_ZSTD_WINDOW_LOG = 23
"""8 MiB of memory, the most that RFC 9659 lets a sender ask for."""


def decompressed(body: bytes, encoding: str, most: int) -> bytes:
    """`body` as it was before it was encoded, `most` bytes of it at most.

    Raises Rejected where the encoding is not known, the body is not what it says, or it is larger.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return body
    if name in ("gzip", "x-gzip"):
        plain, whole = _gunzip(body, most + 1)
    elif name == "zstd":
        plain, whole = _unzstd(body, most + 1)
    else:
        raise Rejected(f"content encoding {name[:80]!r} is not known: use {' or '.join(ENCODINGS)}, or none")
    if len(plain) > most:
        raise Rejected(f"body: more than {most} bytes once it is decompressed: raise the daemon's setting limits.body_bytes")
    if not whole:
        raise Rejected(f"body: does not end where its {name} stream ends: send exactly one stream")
    return plain


def _gunzip(body: bytes, most: int) -> tuple[bytes, bool]:
    inflate = zlib.decompressobj(_GZIP)
    try:
        plain = inflate.decompress(body, most)
    except zlib.error as error:
        raise Rejected(f"body: not gzip, as its content encoding says: {error}") from None
    return plain, inflate.eof and not inflate.unused_data


def _unzstd(body: bytes, most: int) -> tuple[bytes, bool]:
    zstd = _zstd()
    inflate = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG})
    try:
        plain: bytes = inflate.decompress(body, most)
    except zstd.ZstdError as error:
        raise Rejected(f"body: not zstd, as its content encoding says, or with a window above 8 MiB: {error}") from None
    return plain, inflate.eof and not inflate.unused_data


def _zstd() -> ModuleType:
    try:
        return importlib.import_module("backports.zstd")
    except ImportError:
        raise Rejected("content encoding 'zstd' is not installed at this daemon (runnerd[zstd]): use gzip, or none") from None
