"""The AsyncAPI 3.0 document of a daemon, from what its ingresses say and from the types of its messages. No I/O."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
import structlog

from . import __version__
from .codec import JSON
from .description import Description, Message, Operation, Parameter, Server
from .errors import RunnerdError
from .job import VERSION
from .schemas import renamed, schemas_of
from .spec import Ingress, Language

log = structlog.get_logger("runnerd.asyncapi")

_ABOUT = (
    "Runs untrusted code as jobs. A job is sent to one of these addresses, and its result comes back as a message.\n\n"
    "All is told from the daemon's side: what it *receives*, you send. Bodies are JSON, or MessagePack with the same fields where "
    "the content type says so; bytes are base64 in JSON only. Fields that are not known are ignored. "
    f"This is version {VERSION} of the messages."
)

Object = dict[str, Any]


def of(ingresses: Mapping[str, Ingress], languages: Mapping[str, Language], addresses: Mapping[str, str]) -> Object:
    """The document of these ingresses, by kind, without those that say nothing. `addresses`: of those that are open."""
    found = {}
    for kind, ingress in ingresses.items():
        try:
            said = ingress.describe(languages, addresses.get(kind, ""))
            if said is not None and document({kind: said}):
                found[kind] = said
        except RunnerdError as error:
            log.warning("an ingress can't describe itself", ingress=kind, reason=str(error))
        except Exception:  # a plugin's own code, and what it says: the others are described all the same
            log.exception("an ingress can't describe itself", ingress=kind)
    return document(found)


def document(found: Mapping[str, Description]) -> Object:
    """The document, as plain data."""
    parts = [_Part(kind, description) for kind, description in found.items()]
    schemas: Object = {}
    messages: Object = {}
    for part in parts:
        messages |= part.messages(schemas)
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "runnerd", "version": __version__, "description": _ABOUT, "license": {"name": "Apache-2.0"}},
        "defaultContentType": JSON,
        "servers": _merged(part.servers() for part in parts),
        "channels": _merged(part.channels() for part in parts),
        "operations": _merged(part.operations() for part in parts),
        "components": {"schemas": schemas, "messages": messages, "securitySchemes": _merged(part.security() for part in parts)},
    }


class _Part:
    """What one ingress adds. All its names begin with its kind."""

    def __init__(self, kind: str, description: Description) -> None:
        self._kind = kind
        self._description = description
        self._replies = {message.name: message for operation in description.operations for message in operation.replies}
        sent = {message.name: message for operation in description.operations for message in operation.messages}
        self._messages = {**sent, **self._replies}

    def servers(self) -> Object:
        return dict(self._servers())

    def security(self) -> Object:
        return {name: server.security for name, server in self._named_servers() if server.security}

    def channels(self) -> Object:
        found = {self._name(operation.name): self._channel(operation) for operation in self._description.operations}
        if self._replies:
            found[self._name("replies")] = {
                "address": None,
                "description": "Where answers go: each request says it.",
                "servers": self._server_refs(),
                "messages": self._message_refs(self._replies),
                **_given(bindings=self._description.replies_bindings),
            }
        return found

    def operations(self) -> Object:
        return {self._name(operation.name): self._operation(operation) for operation in self._description.operations}

    def messages(self, schemas: Object) -> Object:
        """The messages; what their bodies are is added to `schemas`."""
        types = [message.payload for message in self._messages.values() if message.payload is not bytes]
        refs, components = schemas_of(types)
        names = {name: self._name(name) for name, schema in components.items() if schemas.get(name, schema) != schema}
        schemas |= {names.get(name, name): renamed(schema, names) for name, schema in components.items()}
        bodies = iter(refs)
        return {
            self._name(message.name): _message(message, None if message.payload is bytes else renamed(next(bodies), names))
            for message in self._messages.values()
        }

    def _channel(self, operation: Operation) -> Object:
        return {
            "address": operation.address,
            "servers": self._server_refs(),
            "messages": self._message_refs(message.name for message in operation.messages),
            **_given(
                parameters={name: _parameter(parameter) for name, parameter in operation.parameters.items()},
                bindings=operation.channel_bindings,
            ),
        }

    def _operation(self, operation: Operation) -> Object:
        channel = self._name(operation.name)
        return {
            "action": operation.action,
            "channel": {"$ref": f"#/channels/{channel}"},
            "summary": operation.summary,
            "messages": [{"$ref": f"#/channels/{channel}/messages/{message.name}"} for message in operation.messages],
            **_given(bindings=operation.bindings, reply=self._reply(operation)),
            **operation.extensions,
        }

    def _reply(self, operation: Operation) -> Object:
        if not operation.replies:
            return {}
        channel = self._name("replies")
        return {
            "channel": {"$ref": f"#/channels/{channel}"},
            "messages": [{"$ref": f"#/channels/{channel}/messages/{message.name}"} for message in operation.replies],
            **_given(address={"location": f"$message.header#/{operation.reply_to}"} if operation.reply_to else {}),
        }

    def _named_servers(self) -> Iterator[tuple[str, Server]]:
        for number, server in enumerate(self._description.servers):
            yield (f"{self._kind}_{number + 1}" if number else self._kind), server

    def _servers(self) -> Iterator[tuple[str, Object]]:
        for name, server in self._named_servers():
            security = [{"$ref": f"#/components/securitySchemes/{name}"}] if server.security else []
            given = _given(pathname=server.path, summary=server.summary, security=security)
            yield name, {"host": server.host, "protocol": server.protocol, **given}

    def _server_refs(self) -> list[Object]:
        return [{"$ref": f"#/servers/{name}"} for name, _ in self._named_servers()]

    def _message_refs(self, names: Iterable[str]) -> Object:
        return {name: {"$ref": f"#/components/messages/{self._name(name)}"} for name in names}

    def _name(self, name: str) -> str:
        return f"{self._kind}_{name}"


def _message(message: Message, body: Object | None) -> Object:
    headers = {"type": "object", "properties": dict(message.headers), **_given(required=list(message.required))}
    return {
        "name": message.name,
        "summary": message.summary,
        "contentType": JSON if body else "application/octet-stream",
        **_given(
            payload=body,
            headers=headers if message.headers else {},
            correlationId={"location": f"$message.header#/{message.correlation}"} if message.correlation else {},
            bindings=message.bindings,
            examples=[_example(headers=dict(each.headers), payload=each.payload) for each in message.examples],
        ),
        **message.extensions,
    }


def _example(*, headers: Object, payload: Any) -> Object:
    return {**_given(headers=headers), "payload": payload.decode() if isinstance(payload, bytes) else msgspec.to_builtins(payload)}


def _parameter(parameter: Parameter) -> Object:
    return {"description": parameter.summary, **_given(enum=list(parameter.choices)), "examples": [parameter.example]}


def _given(**fields: Any) -> Object:
    """Those that are not empty."""
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in fields.items() if value}


def _merged(parts: Iterable[Object]) -> Object:
    return {name: value for part in parts for name, value in part.items()}
