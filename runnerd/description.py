"""What an ingress says of itself: its servers, its addresses, and the messages that go there and come from there. No I/O.

All is told from the daemon's side: it receives jobs and sends results. `asyncapi` makes one document of what all ingresses say.
"""

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct

Schema = Mapping[str, Any]
"""A JSON Schema."""


class Server(Struct, frozen=True, kw_only=True):
    """Where the messages are exchanged."""

    host: str
    """Host and port, never with a user or a password."""
    protocol: str
    """`nats`, `amqp`, `http`, …"""
    path: str = ""
    """A path on the host: a virtual host, say."""
    summary: str = ""
    security: Mapping[str, Any] | None = None
    """What callers have to show, as an AsyncAPI security scheme; None where anybody may come."""


class Parameter(Struct, frozen=True, kw_only=True):
    """A token of an address."""

    summary: str
    choices: tuple[str, ...] = ()
    """All values that there are; empty where any may be."""
    example: str


class Example(Struct, frozen=True, kw_only=True):
    """A message as it may be sent."""

    payload: Any
    """An object of the message's type, or JSON of one, as plain data."""
    headers: Mapping[str, Any] = {}


class Message(Struct, frozen=True, kw_only=True):
    """One kind of message. An ingress has one message of each name."""

    name: str
    """`[A-Za-z0-9_-]+`."""
    summary: str
    payload: Any = bytes
    """The type of its body: a Struct, or anything else that msgspec makes a schema of. `bytes`: raw bytes, or nothing."""
    headers: Mapping[str, Schema] = {}
    """What stands beside the body, by name."""
    required: tuple[str, ...] = ()
    """Headers that are always there."""
    correlation: str = ""
    """The header that says which request an answer belongs to, empty where there is none."""
    bindings: Mapping[str, Any] = {}
    """What AsyncAPI's bindings say of it, by protocol."""
    extensions: Mapping[str, Any] = {}
    """Further fields; their names begin with `x-`."""
    examples: tuple[Example, ...] = ()


class Operation(Struct, frozen=True, kw_only=True):
    """What the daemon does at one address."""

    name: str
    """`[A-Za-z0-9_-]+`, one of its kind in an ingress."""
    action: Literal["receive", "send"]
    address: str
    """Subject, routing key or path; a variable token is a parameter's name in braces."""
    summary: str
    parameters: Mapping[str, Parameter] = {}
    """Those of the address, by name."""
    messages: tuple[Message, ...]
    replies: tuple[Message, ...] = ()
    """What answers a message that is received here."""
    reply_to: str = ""
    """The header of the message that says where answers go; empty where the protocol itself knows it."""
    channel_bindings: Mapping[str, Any] = {}
    """What AsyncAPI's bindings say of the address, by protocol."""
    bindings: Mapping[str, Any] = {}
    """What they say of the operation."""
    extensions: Mapping[str, Any] = {}
    """Further fields; their names begin with `x-`."""


class Description(Struct, frozen=True, kw_only=True):
    """Everything that an ingress says of itself."""

    servers: tuple[Server, ...]
    operations: tuple[Operation, ...]
    replies_bindings: Mapping[str, Any] = {}
    """What AsyncAPI's bindings say of the addresses that answers go to, by protocol."""
