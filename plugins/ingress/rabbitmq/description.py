"""What this ingress says of itself: exchanges, queues, and what goes there and comes from there. No I/O."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import unquote, urlsplit

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
)

from . import headers
from .headers import Headers, text
from .refusal import NOT_FOUND, Refused
from .serving import topology_of
from .shown import shown

if TYPE_CHECKING:
    from . import RabbitMq

VERSION = "0.3.0"
"""Of AsyncAPI's bindings for AMQP 0-9-1."""
KINDS = {"Started": ("started",), "Output": ("out", "err"), "ToolCall": ("call",)}
"""What `Rd-Kind` says of each event."""


def describe(settings: "RabbitMq", languages: Mapping[str, Language], address: str) -> Description:
    """Everything; `address` is what the open ingress gave, or empty."""
    urls = (address or shown(settings.url)).split(", ")
    return Description(
        servers=tuple(_server(settings, url) for url in urls),
        operations=tuple(_Keys(settings, languages, examples_of(languages)).operations()),
        replies_bindings=_amqp(exchange={"name": "", "type": "default"}, **{"is": "routingKey"}),
    )


def _server(settings: "RabbitMq", url: str) -> Server:
    parts = urlsplit(url)
    security = {"type": "X509"} if settings.auth == "external" else {"type": "userPassword"}
    return Server(host=parts.netloc, protocol=parts.scheme, path="/" + _vhost(settings, url).removeprefix("/"), security=security)


def _vhost(settings: "RabbitMq", url: str) -> str:
    return settings.vhost or unquote(urlsplit(url).path[1:]) or "/"


def _amqp(**fields: Any) -> dict[str, Any]:
    return {"amqp": {**fields, "bindingVersion": VERSION}}


class _Keys:
    """The routing keys on the exchanges, with their messages."""

    def __init__(self, settings: "RabbitMq", languages: Mapping[str, Language], examples: Examples) -> None:
        self._settings = settings
        self._examples = examples
        self._topology = topology_of(settings)
        self._vhost = _vhost(settings, shown(settings.url).split(", ", maxsplit=1)[0])
        usual = "std" if "std" in settings.classes else settings.classes[0]
        kinds = (*(kind for kinds in KINDS.values() for kind in kinds), *(("result",) if settings.events else ()))
        self._parameters = {
            "tenant": Parameter(summary="Whose job it is.", example=examples.tenant),
            "class": Parameter(summary="Priority class: each has a queue.", choices=settings.classes, example=usual),
            "lang": Parameter(summary="The job's language.", choices=tuple(sorted(languages)), example=examples.lang),
            "job": Parameter(summary="The job's id.", example=examples.result.id),
            "call": Parameter(summary="The call, as its message names it.", example=examples.call.call),
            "kind": Parameter(summary="What it is about.", choices=kinds, example="out"),
        }
        self._result = self._answer("Result", "How the job ended.", Result, headers.RESULT, "result", example=examples.result)
        self._events = tuple(self._event(type_) for type_ in get_args(Event) if type_ is not Result)
        self._refused = self._answer(
            "Refused",
            "It is not known, or can't be told now, and why.",
            Refused,
            headers.REFUSED,
            "refused",
            example=Refused(error="there is no such job here, or no daemon has seen it yet", code=NOT_FOUND),
        )

    def operations(self) -> list[Operation]:
        """All of them."""
        control = [self._status(), self._cancel(), self._stdin(), self._tool()] if self._settings.control else []
        return [self._job(), *control, self._published(), self._dead()]

    def _event(self, type_: type[Struct]) -> Message:
        """What is sent of a job while it runs."""
        examples = (self._examples.started, self._examples.output, self._examples.call)
        (example,) = (each for each in examples if isinstance(each, type_))
        return self._answer(
            type_.__name__, (type_.__doc__ or "").partition("\n")[0], type_, headers.EVENT, *KINDS[type_.__name__], example=example
        )

    def _job(self) -> Operation:
        sent = Message(
            name="Job",
            summary="A program to run. It is kept until it has a result, and run once however often it is sent.",
            payload=Job,
            headers=headers.JOB,
            correlation="correlation_id",
            extensions={"x-amqp-properties": {"type": "object", "properties": headers.JOB_PROPERTIES}},
            examples=(Example(payload=self._examples.job, headers={"rd-job-id": self._examples.result.id}),),
        )
        queues = [self._topology.queue_of(cls) for cls in self._settings.classes]
        return self._operation(
            "job",
            "job.{tenant}.{class}.{lang}",
            "Submit a durable job. The broker's confirm says that it is kept.",
            self._topology.jobs,
            sent,
            replies=(*self._events, self._result),
            bindings=_amqp(ack=True),
            extensions={"x-runnerd-queues": queues},
        )

    def _status(self) -> Operation:
        state = self._answer(
            "State",
            "Where a job is that has no result yet.",
            State,
            headers.STATE,
            "status",
            example=State(id=self._examples.result.id, state="running"),
        )
        return self._question("status", "Ask what became of a job.", state)

    def _cancel(self) -> Operation:
        return self._question("cancel", "Cancel a job, wherever it is.")

    def _question(self, verb: str, summary: str, *replies: Message) -> Operation:
        question = self._asked("Question", "A message without a body.", headers.QUESTION)
        return self._controlled(f"ctl.{{tenant}}.{{job}}.{verb}", verb, summary, question, self._result, *replies, asked=True)

    def _stdin(self) -> Operation:
        piece = self._asked(
            "Input", "More standard input of an interactive job: the bytes as they are. Wait for each answer.", headers.STDIN
        )
        taken = self._answer(
            "Taken",
            "The program has been given the piece, or will be when it starts.",
            Taken,
            headers.ANSWER,
            "stdin",
            example=Taken(id=self._examples.result.id, bytes=3, end=False),
        )
        summary = "Send a running job standard input. All daemons hear it; the one that has the job answers."
        return self._controlled("stdin.{tenant}.{job}", "stdin", summary, piece, taken)

    def _tool(self) -> Operation:
        call = self._examples.call
        said = self._asked("ToolAnswer", "What a tool gave: JSON; or why it failed, in words.", headers.TOOL)
        answered = self._answer(
            "Answered", "The program has the answer.", Answered, headers.ANSWER, "answered", example=Answered(id=call.id, call=call.call)
        )
        summary = "Answer a job's call of a tool. All daemons hear it; the one that has the job says whether it came in time."
        return self._controlled("tool.{tenant}.{job}.{call}", "tool", summary, said, answered)

    @staticmethod
    def _asked(name: str, summary: str, names: Headers) -> Message:
        properties = {"type": "object", "properties": headers.QUESTION_PROPERTIES, "required": ["reply_to"]}
        return Message(
            name=name, summary=summary, headers=names, correlation="correlation_id", extensions={"x-amqp-properties": properties}
        )

    def _controlled(self, key: str, name: str, summary: str, message: Message, *replies: Message, asked: bool = False) -> Operation:
        """On the exchange of control. What is asked goes to one daemon, what is said to all."""
        return self._operation(
            name,
            key,
            summary,
            self._topology.control,
            message,
            replies=(*replies, self._refused),
            bindings=_amqp(ack=False),
            extensions={"x-runnerd-queues": [self._topology.control]} if asked else {},
        )

    def _published(self) -> Operation:
        messages = (*self._events, *((self._result,) if self._settings.events else ()))
        summary = "Output of jobs that ask for it, and calls of tools, while they run. It is dropped where nobody binds a queue."
        return self._operation("event", "evt.{tenant}.{job}.{kind}", summary, self._topology.events, *messages)

    def _dead(self) -> Operation:
        letter = Message(
            name="DeadLetter",
            summary="A job as it was sent, and why it could not be run.",
            payload=Job,
            headers={**headers.JOB, **headers.DEAD},
            required=("Rd-Dead-Reason",),
            extensions={"x-amqp-properties": {"type": "object", "properties": headers.JOB_PROPERTIES}},
        )
        return self._operation(
            "dead",
            "job.{tenant}.{class}.{lang}",
            "Jobs that runnerd could not run, with the reason.",
            self._topology.dead,
            letter,
            bindings=_amqp(deliveryMode=2, mandatory=True),
            extensions={"x-runnerd-queues": [self._topology.letters]},
        )

    def _operation(
        self,
        name: str,
        key: str,
        summary: str,
        exchange: str,
        *messages: Message,
        replies: tuple[Message, ...] = (),
        bindings: Mapping[str, Any] | None = None,
        extensions: Mapping[str, Any] | None = None,
    ) -> Operation:
        (type_,) = (each.type for each in self._topology.exchanges() if each.name == exchange)
        place = {"name": exchange, "type": type_, "durable": True, "autoDelete": False, "vhost": self._vhost}
        return Operation(
            name=name,
            action="receive" if replies else "send",
            address=key,
            summary=summary,
            parameters={token: parameter for token, parameter in self._parameters.items() if f"{{{token}}}" in key},
            messages=messages,
            replies=replies,
            reply_to="reply_to" if replies else "",
            channel_bindings=_amqp(exchange=place, **{"is": "routingKey"}),
            bindings=bindings or {},
            extensions=extensions or {},
        )

    @staticmethod
    def _answer(name: str, summary: str, payload: Any, names: Headers, *kinds: str, example: Any) -> Message:
        return Message(
            name=name,
            summary=summary,
            payload=payload,
            headers={**names, "Rd-Kind": text("What the message is.", enum=list(kinds))},
            required=("Rd-Kind", "Rd-Job-Id"),
            correlation="correlation_id",
            bindings=_amqp(messageType=f"rd.{kinds[0]}") if len(kinds) == 1 else {},
            extensions={"x-amqp-properties": {"type": "object", "properties": headers.ANSWER_PROPERTIES}},
            examples=(Example(payload=example),),
        )
