"""Reads AsyncAPI documents as a stranger would: the official schema, references, addresses, and what fits which message."""

import json
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest

SPECS = Path(__file__).parent.parent / ".ci/node_modules/@asyncapi/specs/schemas/3.0.0.json"

Object = dict[str, Any]


@cache
def _official() -> jsonschema.Draft7Validator:
    schema = json.loads(SPECS.read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


def violations(document: Object) -> list[str]:
    """What the official schema has against a document. Skips the test, or fails it in CI, where the schema is missing."""
    if not SPECS.exists():
        message = "AsyncAPI's own schema is missing; install it with: npm install --prefix .ci"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return [f"{'/'.join(map(str, error.absolute_path))}: {error.message[:300]}" for error in _official().iter_errors(document)]


def references(part: Any) -> Iterator[str]:
    """All references in a part of a document."""
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for value in part.values():
            yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


class Document:
    """A document, and nothing else that is known of runnerd."""

    def __init__(self, data: Object) -> None:
        self.data = data

    def resolve(self, part: Object) -> Object:
        """What a part is or refers to. Raises KeyError."""
        while "$ref" in part:
            found = self.data
            for name in part["$ref"].removeprefix("#/").split("/"):
                found = found[name]
            part = found
        return part

    def operations(self, protocol: str, action: str = "receive") -> dict[str, Object]:
        """Those on servers of a protocol."""
        return {
            name: operation
            for name, operation in self.data["operations"].items()
            if operation["action"] == action and {server["protocol"] for server in self.servers(operation)} == {protocol}
        }

    def channel(self, operation: Object) -> Object:
        return self.resolve(operation["channel"])

    def servers(self, operation: Object) -> list[Object]:
        return [self.resolve(server) for server in self.channel(operation)["servers"]]

    def address(self, operation: Object, **values: str) -> str:
        """The operation's address with its parameters' examples, or `values`."""
        channel = self.channel(operation)
        examples = {name: parameter["examples"][0] for name, parameter in channel.get("parameters", {}).items()}
        return re.sub(r"\{(\w+)\}", lambda token: {**examples, **values}[token[1]], channel["address"])

    def message(self, operation: Object) -> Object:
        """The only message of an operation."""
        (message,) = operation["messages"]
        return self.resolve(message)

    def replies(self, operation: Object) -> list[Object]:
        return [self.resolve(message) for message in operation.get("reply", {}).get("messages", [])]

    def problem(self, message: Object, headers: Object, body: bytes) -> str:
        """Why `headers` and `body` are no such message, empty where they are."""
        try:
            self.check(message.get("headers", {}), headers)
            if "payload" in message:
                self.check(message["payload"], json.loads(body))
        except (jsonschema.ValidationError, ValueError) as error:
            return str(error)[:300]
        return ""

    def one_of(self, messages: list[Object], headers: Object, body: bytes) -> Object:
        """Which of the messages this is: exactly one."""
        problems = {message["name"]: self.problem(message, headers, body) for message in messages}
        fitting = [message for message in messages if not problems[message["name"]]]
        assert len(fitting) == 1, f"{headers} {body[:300]!r} is {[message['name'] for message in fitting]}: {problems}"
        return fitting[0]

    def check(self, schema: Object, value: Any) -> None:
        """Raises ValidationError."""
        whole = {**schema, "components": self.data["components"]}
        if "$ref" in schema:
            whole = {"allOf": [schema], "components": self.data["components"]}
        jsonschema.Draft7Validator(whole).validate(value)
