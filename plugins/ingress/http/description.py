"""What this ingress says of itself, as far as jobs go: the rest is in the OpenAPI description at /docs. No I/O."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from runnerd import Description, Example, Language, Message, Operation, Server, examples_of

from .exec import ExecAnswer, ExecRequest, Problem, answer_of

if TYPE_CHECKING:
    from . import Http

VERSION = "0.3.0"
"""Of AsyncAPI's bindings for HTTP."""
KEY = "example-2"
"""An id of its own, as a job of HTTP works in a session, and is another one than that of the same program on a bus."""


def describe(http: "Http", languages: Mapping[str, Language], address: str) -> Description:
    """Everything; `address` is what the open ingress gave, or empty."""
    host = urlsplit(address.partition(" ")[0]).netloc if address else _netloc(http.host, http.port)
    key = {"type": "httpApiKey", "in": "header", "name": http.api_key_header}
    return Description(servers=(Server(host=host, protocol="http", security=key),), operations=(_exec(languages),))


def _netloc(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _exec(languages: Mapping[str, Language]) -> Operation:
    examples = examples_of(languages)
    _, answer = answer_of(examples.result)
    headers = {"Idempotency-Key": {"type": "string", "description": "The job's id: a repeated request has the same answer."}}
    asked = Message(
        name="ExecRequest",
        summary="A program to run.",
        payload=ExecRequest,
        headers=headers,
        examples=(Example(payload={"lang": examples.lang, "code": examples.job.code}, headers={"Idempotency-Key": KEY}),),
    )
    told = Message(
        name="ExecAnswer",
        summary="How the program ended.",
        payload=ExecAnswer,
        bindings=_http(statusCode=200),
        examples=(Example(payload=answer),),
    )
    problem = Message(
        name="Problem",
        summary="Why there is no answer, with a status of 400 or above.",
        payload=Problem,
        headers={"Retry-After": {"type": "string", "description": "Of 503: when to try again, in seconds."}},
        examples=(Example(payload=Problem(error="no sandbox is free", error_type="service_unavailable", retry_after_seconds=1)),),
    )
    return Operation(
        name="exec",
        action="receive",
        address="/exec",
        summary="Run a program; the answer says how it ended.",
        messages=(asked,),
        replies=(told, problem),
        bindings=_http(method="POST"),
    )


def _http(**fields: Any) -> dict[str, Any]:
    return {"http": {**fields, "bindingVersion": VERSION}}
