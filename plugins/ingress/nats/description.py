"""What this ingress says of itself: its subjects, and what goes there and comes from there. No I/O."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import urlsplit

from msgspec import Struct

from runnerd import (
    Answered,
    Description,
    Event,
    Example,
    Examples,
    Job,
    Language,
    Message,
    Operation,
    Parameter,
    Result,
    Server,
    State,
    Taken,
    examples_of,
    nats_shown,
)

from . import headers
from .answers import LanguageInfo, LimitsInfo
from .headers import Headers, text
from .jetstream.description import Durable
from .refusal import UNAVAILABLE, Refused

if TYPE_CHECKING:
    from . import Nats

CORRELATION = "Rd-Correlation-Id"
KINDS = {"Started": ("started",), "Output": ("out", "err"), "ToolCall": ("call",)}
"""What `Rd-Kind` says of each event."""


def kind(names: Headers, *kinds: str) -> Headers:
    """The headers, with what `Rd-Kind` says in these messages."""
    return {**names, "Rd-Kind": text("What the message is.", enum=list(kinds))}


def describe(nats: "Nats", languages: Mapping[str, Language], address: str) -> Description:
    """Everything; `address` is what the open ingress gave, or empty."""
    examples = examples_of(languages, next((tenant for tenant in nats.tenants if tenant != "*"), "default"))
    return _Subjects(nats, languages, examples).description(address)


class _Subjects:
    """The subjects under the prefix, with their messages."""

    def __init__(self, nats: "Nats", languages: Mapping[str, Language], examples: Examples) -> None:
        self._nats = nats
        self._examples = examples
        tenants = () if "*" in nats.tenants else nats.tenants
        self._parameters = {
            "tenant": Parameter(summary="Whose job it is.", choices=tenants, example=examples.tenant),
            "lang": Parameter(summary="The job's language.", choices=tuple(sorted(languages)), example=examples.lang),
            "job": Parameter(summary="The job's id.", example=examples.result.id),
            "call": Parameter(summary="The call, as its message names it.", example=examples.call.call),
        }
        self._refused = Message(
            name="Refused",
            summary="Nothing was run, or is known, and why.",
            payload=Refused,
            headers=kind(headers.REFUSED, "refused"),
            required=("Rd-Kind", "Nats-Service-Error-Code"),
            correlation=CORRELATION,
            examples=(Example(payload=Refused(error="saturated: try again", code=UNAVAILABLE, retry_after_ms=nats.retry_after_ms)),),
        )
        self._result = Message(
            name="Result",
            summary="How the job ended.",
            payload=Result,
            headers=kind(headers.RESULT, "result"),
            required=("Rd-Kind", "Rd-Status"),
            correlation=CORRELATION,
            examples=(Example(payload=examples.result),),
        )
        self._events = tuple(self._event(type_) for type_ in get_args(Event) if type_ is not Result)

    def _event(self, type_: type[Struct]) -> Message:
        """What is sent of a job while it runs."""
        examples = (self._examples.started, self._examples.output, self._examples.call)
        return Message(
            name=type_.__name__,
            summary=(type_.__doc__ or "").partition("\n")[0],
            payload=type_,
            headers=kind(headers.EVENT, *KINDS[type_.__name__]),
            required=("Rd-Kind", "Rd-Seq"),
            correlation=CORRELATION,
            examples=tuple(Example(payload=each) for each in examples if isinstance(each, type_)),
        )

    def description(self, address: str) -> Description:
        """All subjects, those of durable jobs among them where they are not off."""
        operations = [self._run(), self._status(), self._cancel(), self._stdin(), self._tool(), *self._info()]
        if self._nats.jetstream.streams != "off":
            durable = Durable(self._nats, self._parameters, self._examples)
            operations += durable.operations(self._result, self._events)
        urls = nats_shown(address or self._nats.url or f"nats://{self._nats.listen}").split(", ")
        return Description(servers=tuple(self._server(url) for url in urls), operations=tuple(operations))

    def _server(self, url: str) -> Server:
        scheme = urlsplit(url).scheme
        summary = "" if scheme == "nats" else f"By {scheme}://"
        return Server(host=urlsplit(url).netloc, protocol="nats", summary=summary, security=self._security())

    def _security(self) -> dict[str, Any] | None:
        """What the daemon itself shows the server, never the thing itself."""
        nats = self._nats
        if nats.creds_file or nats.nkey_seed_file:
            return {"type": "asymmetricEncryption", "description": "An nkey, or a credentials file."}
        if nats.user:
            return {"type": "userPassword"}
        if nats.token:
            return {"type": "apiKey", "in": "password", "description": "A token."}
        return {"type": "X509"} if nats.tls_cert else None

    def _operation(self, name: str, subject: str, summary: str, message: Message, *replies: Message, queue: bool = True) -> Operation:
        address = f"{self._nats.prefix}.{subject}"
        return Operation(
            name=name,
            action="receive",
            address=address,
            summary=summary,
            parameters={token: parameter for token, parameter in self._parameters.items() if f"{{{token}}}" in address},
            messages=(message,),
            replies=(*replies, self._refused),
            bindings={"nats": {"queue": self._nats.queue, "bindingVersion": "0.1.0"}} if queue else {},
        )

    def _run(self) -> Operation:
        job = Message(
            name="Job",
            summary="A program to run now. It is delivered at most once, to a daemon that has room.",
            payload=Job,
            headers=headers.RUN,
            correlation=CORRELATION,
            examples=(Example(payload=self._examples.job, headers={"Rd-Job-Id": self._examples.result.id}),),
        )
        summary = "Run a job; its result is the answer. Where no daemon has room there are no responders."
        return self._operation("run", "run.{tenant}.{lang}", summary, job, *self._events, self._result)

    def _status(self) -> Operation:
        state = Message(
            name="State",
            summary="Where a job is that has no result yet.",
            payload=State,
            headers=kind(headers.STATE, "status"),
            required=("Rd-Kind", "Rd-Status"),
            correlation=CORRELATION,
            examples=(Example(payload=State(id=self._examples.result.id, state="running")),),
        )
        return self._operation("status", "ctl.{tenant}.{job}.status", "Ask what became of a job.", self._question(), self._result, state)

    def _cancel(self) -> Operation:
        return self._operation("cancel", "ctl.{tenant}.{job}.cancel", "Cancel a job, wherever it is.", self._question(), self._result)

    def _stdin(self) -> Operation:
        piece = Message(
            name="Input",
            summary="More standard input of an interactive job: the bytes as they are. Wait for each answer.",
            headers=headers.STDIN,
            correlation=CORRELATION,
        )
        taken = Message(
            name="Taken",
            summary="The program has been given the piece, or will be when it starts.",
            payload=Taken,
            headers=kind(headers.DATA, "stdin"),
            required=("Rd-Kind",),
            correlation=CORRELATION,
            examples=(Example(payload=Taken(id=self._examples.result.id, bytes=3, end=False)),),
        )
        summary = "Send a running job standard input. All daemons hear it; the one that has the job answers."
        return self._operation("stdin", "stdin.{tenant}.{job}", summary, piece, taken, queue=False)

    def _tool(self) -> Operation:
        said = Message(
            name="ToolAnswer",
            summary="What a tool gave: JSON; or why it failed, in words.",
            headers=headers.TOOL,
            correlation=CORRELATION,
        )
        answered = Message(
            name="Answered",
            summary="The program has the answer.",
            payload=Answered,
            headers=kind(headers.DATA, "answered"),
            required=("Rd-Kind",),
            correlation=CORRELATION,
            examples=(Example(payload=Answered(id=self._examples.call.id, call=self._examples.call.call)),),
        )
        summary = "Answer a job's call of a tool. All daemons hear it; the one that has the job says whether it came in time."
        return self._operation("tool", "tool.{tenant}.{job}.{call}", summary, said, answered, queue=False)

    def _info(self) -> list[Operation]:
        def info(what: str, name: str, summary: str, payload: Any) -> Operation:
            answer = Message(
                name=name,
                summary=summary,
                payload=payload,
                headers=kind(headers.DATA, "info"),
                required=("Rd-Kind",),
                correlation=CORRELATION,
            )
            return self._operation(f"info_{what}", f"info.{what}", f"Ask for: {summary}", self._question(), answer)

        return [
            info("langs", "Languages", "The languages that this daemon runs.", list[LanguageInfo]),
            info("limits", "Limits", "What this bus and this daemon take.", LimitsInfo),
            info("schema", "Schema", "JSON Schema of jobs, events and results.", dict[str, Any]),
            info("asyncapi", "AsyncApi", "This document.", dict[str, Any]),
        ]

    @staticmethod
    def _question() -> Message:
        return Message(name="Question", summary="A message without a body.", headers=headers.QUESTION, correlation=CORRELATION)
