"""The streams that keys, values and blobs are in: what they have to be, created or checked."""

from typing import TYPE_CHECKING, Any

from .connection import Connection

if TYPE_CHECKING:
    from . import JetStream

_NEEDED = {"allow_msg_ttl": True, "allow_direct": True, "max_msgs_per_subject": 1, "discard": "new"}
"""What nothing works without."""


def kv_stream(store: "JetStream") -> dict[str, Any]:
    """The stream of a key-value bucket."""
    return _stream(store, f"KV_{store.bucket}", f"$KV.{store.bucket}.>", store.bucket_bytes) | {
        "allow_rollup_hdrs": True,
        "deny_delete": True,
    }


def blobs_stream(store: "JetStream") -> dict[str, Any]:
    """The stream of blobs."""
    return _stream(store, f"BLOBS_{store.bucket}", f"$BLOBS.{store.bucket}.>", store.stream_bytes)


def _stream(store: "JetStream", name: str, subjects: str, most_bytes: int) -> dict[str, Any]:
    return {
        "name": name,
        "subjects": [subjects],
        "storage": "file",
        "retention": "limits",
        "max_bytes": most_bytes,
        "max_msgs": -1,
        "num_replicas": store.replicas,
        **_NEEDED,
    }


async def prepare(connection: Connection, stream: dict[str, Any], *, create: bool) -> None:
    """See that the stream is there, and is what we need. Raises StoreError, naming the stream and the fix."""
    name = stream["name"]
    found = await connection.api(f"STREAM.INFO.{name}")
    if found is None:
        if not create:
            raise connection.failure(f"there is no stream {name}: create it, or set store.jetstream.create")
        found = await connection.api(f"STREAM.CREATE.{name}", stream)
        if found is None:
            raise connection.failure(f"stream {name} can't be created: the server finds no place for it")
    config = found["config"]
    for field, needed in _NEEDED.items():
        if config.get(field) != needed:
            raise connection.failure(f"stream {name}: {field} is {config.get(field)} and has to be {needed}; JetStream of 2.11 or later")
