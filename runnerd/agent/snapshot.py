"""Snapshots of an interpreter's variables: taken and loaded by the job's own process, inside its sandbox, and nowhere else.

    snapshot = head · compressed body             head: magic, format, codec, Python's version, CRC-32 of the compressed body
    body     = one pickle per variable · index · length of the index (u32)      index: JSON, [[name, bytes of its pickle], …]

Kept are all global variables of the program but those named `__like_this__`. The pickles share one memo, so what two
variables share is one thing again; yet each can fail alone, and costs the others nothing. Functions and classes of the
program are pickled by value, modules by name. A function's globals are the program's own, wherever it is loaded.

cloudpickle and lz4 come with the sandbox's Python, else from the directory `modules` beside the agent. The master imports
them before any fork and takes them out of sight; without lz4, zlib does its work.
"""

from __future__ import annotations

import builtins
import gc
import importlib
import json
import pickle
import struct
import sys
import zlib
from typing import Any, NamedTuple

MAGIC = b"runnerd state\n"
FORMAT = 1
HEAD = struct.Struct(f"!{len(MAGIC)}sBBBBI")
INDEX = struct.Struct("!I")
PLAIN_CODEC, FAST_CODEC, NO_CODEC = 1, 2, 3
"""What does not get smaller is not compressed: it is fresh memory that costs a fresh process its time."""
PYTHON = (sys.version_info.major, sys.version_info.minor)
PIECE = 1 << 18
"""Bytes that are compressed at once: a block, so that the compressor has none of its own."""
SAMPLE = 1 << 14
"""So much of the first block is tried,"""
WORTH = 0.9
"""and has to become smaller than that share of itself."""
SKIPPED = 100
"""Variables that are named as not kept, or not loaded."""
ROUNDS = 8
"""How often we begin anew because yet another variable can't be pickled."""
_PACKAGES = ("cloudpickle", "lz4")

Namespace = dict[str, Any]
Skipped = list[tuple[str, str]]
"""Names of variables and of the classes of their exceptions."""


class Unloadable(Exception):
    """A snapshot of which nothing was loaded; the text is one word, see `keeping.WORDS`."""


class TooLarge(BaseException):
    """A snapshot is larger than it may be. No Exception: it passes through all that pickling calls."""


class Taken(NamedTuple):
    """A snapshot in pieces, and what is not in it."""

    pieces: list[bytes]
    skipped: Skipped


class _Libraries:
    """What was imported ahead, by name; all None where it is not there."""

    def __init__(self) -> None:
        self.modules: dict[str, Any] = {}
        self.cloudpickle: Any = None
        self.frame: Any = None
        self.pickler: Any = None


_libraries = _Libraries()


def import_ahead(directory: str) -> None:
    """Import what snapshots need, from `directory` where the interpreter has it not, and hide it from programs."""
    sys.path.append(directory)
    before = set(sys.modules)
    try:
        _libraries.cloudpickle = _imported("cloudpickle")
        _libraries.frame = _imported("lz4.frame")
    finally:
        sys.path.remove(directory)
        sys.path_importer_cache.pop(directory, None)
    ours = [name for name in sys.modules if name.partition(".")[0] in _PACKAGES and name not in before]
    _libraries.modules = {name: sys.modules.pop(name) for name in ours}
    if _libraries.cloudpickle is not None:
        _libraries.pickler = _pickler(_libraries.cloudpickle)


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception:  # noqa: BLE001 - not there, or not made for this interpreter: then snapshots do without
        return None


def available() -> bool:
    """Whether snapshots can be taken and loaded."""
    return _libraries.pickler is not None


def kept(namespace: Namespace) -> list[str]:
    """Names of the variables that a snapshot has: all but those that the interpreter made, or could have."""
    return [name for name in list(namespace) if type(name) is str and not (name.startswith("__") and name.endswith("__"))]


# Taking


def take(namespace: Namespace, most: int) -> Taken:
    """Pickle the variables of `namespace` into at most `most` bytes. Raises TooLarge, and what a hostile program makes it raise."""
    sys.modules.update(_libraries.modules)
    gc.disable()
    skipped: Skipped = []
    names = kept(namespace)
    for attempt in range(ROUNDS):
        try:
            return Taken(_dumped(namespace, names, most - HEAD.size), skipped)
        except _Unpicklable as failure:
            bad = {failure.name: failure.kind}
        if attempt == 0:  # each alone, so that what is left goes together the next time
            bad.update(_failures(namespace, [name for name in names if name not in bad]))
        names = [name for name in names if name not in bad]
        skipped += list(bad.items())[: SKIPPED - len(skipped)]
    raise RuntimeError("what can be pickled changes all the time")


class _Unpicklable(Exception):
    def __init__(self, name: str, kind: str) -> None:
        super().__init__(name)
        self.name = name
        self.kind = kind


def _dumped(namespace: Namespace, names: list[str], most: int) -> list[bytes]:
    sink = _Sink(most)
    try:
        return _dump(namespace, names, sink)
    except TooLarge:
        if sink.codec != NO_CODEC:
            raise
    return _dump(namespace, names, _Sink(most, always=True))


def _dump(namespace: Namespace, names: list[str], sink: _Sink) -> list[bytes]:
    pickler = _libraries.pickler(sink, namespace)
    index = []
    for name in names:
        before = sink.taken
        try:
            pickler.dump(namespace[name])
        except Exception as error:  # noqa: BLE001 - whatever the objects of the program raise
            raise _Unpicklable(name, type(error).__name__) from None
        index.append((name, sink.taken - before))
    text = json.dumps(index, separators=(",", ":")).encode()
    sink.write(text + INDEX.pack(len(text)))
    return sink.finish()


def _failures(namespace: Namespace, names: list[str]) -> dict[str, str]:
    failures = {}
    for name in names:
        try:
            _libraries.pickler(_Nowhere(), namespace).dump(namespace[name])
        except Exception as error:  # noqa: BLE001 - whatever the objects of the program raise
            failures[name] = type(error).__name__
    return failures


class _Nowhere:
    def write(self, data: Any) -> int:
        return len(data)


class _Sink:
    """Compresses what is written to it, as far as it fits; unless `always`, only where its beginning says that it is worth it."""

    def __init__(self, most: int, always: bool = False) -> None:
        self.taken = 0
        self.codec = 0
        self._always = always
        self._compressor: Any = None
        self._left = most
        self._crc = 0
        self._pieces: list[bytes] = []
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0

    def write(self, data: Any) -> int:
        """Take bytes, as a file would."""
        size = len(data)
        self.taken += size
        if size >= PIECE:  # on its own, since joining it would copy it
            self._choose(data)
            self._put_waiting()
            self._put(bytes(data))
            return size
        self._waiting.append(bytes(data))
        self._waiting_bytes += size
        if self._waiting_bytes >= PIECE:
            self._put_waiting()
        return size

    def finish(self) -> list[bytes]:
        """The whole snapshot, in pieces."""
        self._put_waiting()
        if self._compressor is not None:
            self._keep(self._compressor.flush())
        head = HEAD.pack(MAGIC, FORMAT, self.codec, *PYTHON, self._crc)
        return [head, *self._pieces]

    def _put_waiting(self) -> None:
        data = b"".join(self._waiting)
        self._waiting, self._waiting_bytes = [], 0
        self._choose(data)
        self._put(data)

    def _put(self, data: bytes) -> None:
        if self._compressor is None:
            self._keep(data)
            return
        view = memoryview(data)
        for start in range(0, len(data), PIECE):
            self._keep(self._compressor.compress(view[start : start + PIECE]))

    def _choose(self, data: Any) -> None:
        """The codec, by the first data that there is, unless it was chosen before."""
        if self.codec:
            return
        if not self._always and len(data) >= PIECE and len(zlib.compress(data[-SAMPLE:], 1)) > WORTH * SAMPLE:
            self.codec = NO_CODEC
        elif _libraries.frame is not None:
            self.codec = FAST_CODEC
            self._compressor = _libraries.frame.LZ4FrameCompressor(block_size=_libraries.frame.BLOCKSIZE_MAX256KB)
            self._keep(self._compressor.begin())
        else:
            self.codec = PLAIN_CODEC
            self._compressor = zlib.compressobj(1)

    def _keep(self, piece: bytes) -> None:
        if not piece:
            return
        self._left -= len(piece)
        if self._left < 0:
            raise TooLarge
        self._crc = zlib.crc32(piece, self._crc)
        self._pieces.append(piece)


def _pickler(cloudpickle: Any) -> Any:
    """Our pickler: one that knows the program's own namespace when it meets it."""

    class Main:
        def __reduce__(self) -> Any:
            return cloudpickle.cloudpickle.subimport, ("__main__",)

    class Globals:
        def __reduce__(self) -> Any:
            return vars, (Main(),)

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def __init__(self, file: Any, namespace: Namespace) -> None:
            super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
            self._namespace = namespace
            self._globals = Globals()

        def _dynamic_function_reduce(self, function: Any) -> Any:
            make, arguments, state, *rest = super()._dynamic_function_reduce(function)
            if function.__globals__ is self._namespace:
                code, _, *others = arguments
                arguments = (code, self._globals, *others)
                state[1]["__globals__"] = {}  # they are variables like others
            return (make, arguments, state, *rest)

    return Pickler


# Loading


def load(snapshot: bytes, namespace: Namespace) -> Skipped:
    """Put the variables of a snapshot into `namespace`, the one of the module `__main__`; returns those that could not be loaded.

    Raises Unloadable where it holds none, or none that this interpreter can read; nothing of it has run then.
    """
    body = _decompressed(snapshot)
    index = _index(body)
    sys.modules.update(_libraries.modules)
    stream = _Stream(body)
    unpickler = pickle.Unpickler(stream)  # noqa: S301 - in the sandbox of the one whose it is
    skipped: Skipped = []
    at = 0
    for name, size in index:
        stream.at = at
        at += size
        try:
            namespace[name] = _loaded(unpickler, stream, at)
        except BaseException as error:  # noqa: BLE001 - whatever the objects of the program raise
            if len(skipped) < SKIPPED:
                skipped.append((name, type(error).__name__))
            fresh = pickle.Unpickler(stream)  # noqa: S301 - as above; the old one may stand amid a pickle
            fresh.memo = unpickler.memo
            unpickler = fresh
    namespace["__builtins__"] = builtins  # cloudpickle puts its own there
    return skipped


class _Stream:
    """Bytes as a file to unpickle from, without a copy of their own."""

    def __init__(self, body: memoryview) -> None:
        self.at = 0
        self._body = body

    def read(self, size: int) -> bytes:
        """So many bytes; fewer are the last ones."""
        start, self.at = self.at, min(self.at + size, len(self._body))
        return bytes(self._body[start : self.at])

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, as far as there is something."""
        start, self.at = self.at, min(self.at + len(buffer), len(self._body))
        buffer[: self.at - start] = self._body[start : self.at]
        return self.at - start

    def readline(self) -> bytes:
        """Up to the end of a line."""
        rest = bytes(self._body[self.at :])
        return self.read(rest.find(b"\n") + 1 or len(rest))


def _loaded(unpickler: pickle.Unpickler, stream: _Stream, end: int) -> Any:
    value = unpickler.load()
    if stream.at != end:
        raise pickle.UnpicklingError("it does not end where it should")
    return value


def _decompressed(snapshot: bytes) -> memoryview:
    if not available():
        raise Unloadable("missing")
    if len(snapshot) < HEAD.size or not snapshot.startswith(MAGIC):
        raise Unloadable("format")
    _, form, codec, major, minor, crc = HEAD.unpack_from(snapshot)
    if form != FORMAT or codec not in (PLAIN_CODEC, FAST_CODEC, NO_CODEC):
        raise Unloadable("format")
    if (major, minor) != PYTHON:
        raise Unloadable("python")
    body = memoryview(snapshot)[HEAD.size :]
    if zlib.crc32(body) != crc:
        raise Unloadable("damaged")
    if codec == FAST_CODEC and _libraries.frame is None:
        raise Unloadable("missing")
    if codec == NO_CODEC:
        return body
    try:
        return memoryview(_libraries.frame.decompress(body) if codec == FAST_CODEC else zlib.decompress(body))
    except (RuntimeError, ValueError, zlib.error):
        raise Unloadable("damaged") from None


def _index(body: memoryview) -> list[tuple[str, int]]:
    """Names and sizes of the pickles."""
    try:
        (length,) = INDEX.unpack_from(body, len(body) - INDEX.size)
        end = len(body) - INDEX.size - length
        entries = [(str(name), int(size)) for name, size in json.loads(bytes(body[max(0, end) : len(body) - INDEX.size]))]
    except (struct.error, ValueError, TypeError, RecursionError):
        raise Unloadable("damaged") from None
    if end < 0 or any(size <= 0 for _, size in entries) or sum(size for _, size in entries) != end:
        raise Unloadable("damaged")
    return entries
