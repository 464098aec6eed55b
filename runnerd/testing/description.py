"""What every description of an ingress has to keep to, for its AsyncAPI document to say what is so."""

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from ..description import Description, Message, Operation

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_TOKEN = re.compile(r"\{([^{}]*)\}")


def check_description(description: Description) -> None:
    """Fails, naming the operation or the message, and what is wrong with it."""
    assert description.servers, "it names no server"
    for server in description.servers:
        assert server.host, "a server has no host"
        assert "@" not in server.host, "a server's host has a user in it"
    names = [operation.name for operation in description.operations]
    assert len(names) == len(set(names)), f"two operations have one name: {names}"
    for operation in description.operations:
        _check_operation(operation)
    messages: dict[str, Message] = {}
    for message in _messages(description):
        assert messages.setdefault(message.name, message) == message, f"{message.name}: there are two different messages of this name"
        _check_message(message)


def _check_operation(operation: Operation) -> None:
    assert _NAME.fullmatch(operation.name), f"{operation.name!r} is no name"
    assert operation.address, f"{operation.name}: has no address"
    assert operation.summary, f"{operation.name}: says nothing of itself"
    assert operation.messages, f"{operation.name}: has no message"
    assert set(_TOKEN.findall(operation.address)) == set(operation.parameters), (
        f"{operation.name}: its parameters are not those of its address"
    )
    for name, parameter in operation.parameters.items():
        assert not parameter.choices or parameter.example in parameter.choices, f"{operation.name}: the example of {name} is no choice"
    _check_extensions(operation.name, operation.extensions)


def _check_message(message: Message) -> None:
    assert _NAME.fullmatch(message.name), f"{message.name!r} is no name"
    assert set(message.required) <= set(message.headers), f"{message.name}: headers are required that are not described"
    _check_extensions(message.name, message.extensions)
    for example in message.examples:
        assert set(example.headers) <= set(message.headers), f"{message.name}: an example has headers that are not described"
        if message.payload is not bytes:
            _convert(message, msgspec.to_builtins(example.payload))


def _convert(message: Message, payload: Any) -> None:
    try:
        msgspec.convert(payload, message.payload)
    except msgspec.ValidationError as error:
        raise AssertionError(f"{message.name}: an example is none: {error}") from None


def _check_extensions(name: str, extensions: Any) -> None:
    assert all(each.startswith("x-") for each in extensions), f"{name}: names of extensions begin with x-"


def _messages(description: Description) -> Iterator[Message]:
    for operation in description.operations:
        yield from operation.messages
        yield from operation.replies
