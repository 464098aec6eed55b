"""The subjects of durable jobs, for the ingress's description. No I/O."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from runnerd import Example, Examples, Job, Message, Operation, Parameter

from .. import headers
from .topology import DEAD, EVENTS, JOBS, LATER, PARTS, RESULTS, SCHEDULES, Topology

if TYPE_CHECKING:
    from .. import Nats

CORRELATION = "Rd-Correlation-Id"
REPLY_TO = "Rd-Reply-To"
_PART = "Store a part of a body that is larger than a message. Wait for the PubAck of each, then submit the job with `Rd-Parts`."


class Durable:
    """Jobs that are kept by JetStream until they have a result, and what is published of them."""

    def __init__(self, nats: "Nats", parameters: Mapping[str, Parameter], examples: Examples) -> None:
        self._nats = nats
        self._examples = examples
        self._topology = Topology(prefix=nats.prefix, settings=nats.jetstream, version=SCHEDULES)
        classes = nats.jetstream.classes
        usual = "std" if "std" in classes else classes[0]
        self._parameters = {
            **parameters,
            "class": Parameter(summary="Priority class, the most urgent first.", choices=classes, example=usual),
            "number": Parameter(summary="Which part it is, from 1.", example="1"),
            "kind": Parameter(summary="What it is about.", choices=("status", "out", "err", "call"), example="out"),
        }

    def operations(self, result: Message, events: tuple[Message, ...]) -> list[Operation]:
        """All of them. The messages are those that any job's requester gets."""
        stored = replace(result, name="StoredResult", summary="How a durable job ended.", headers={**result.headers, **headers.STORED_ONLY})
        return [
            self._job("job", "job.{tenant}.{class}.{lang}", JOBS, result, self._durable()),
            self._job("job_named", "job.{tenant}.{class}.{lang}.{job}", JOBS, result, self._durable()),
            self._job("job_later", "sched.{tenant}.{job}", LATER, result, self._scheduled()),
            replace(self._operation("part", "part.{tenant}.{job}.{number}", PARTS, _PART, (self._part(),)), action="receive"),
            self._sent("result", "res.{tenant}.{job}", RESULTS, "The result of each durable job, exactly one.", stored),
            self._sent(
                "event", "evt.{tenant}.{job}.{kind}", EVENTS, "Output of jobs that ask for it, and calls of tools, while they run.", *events
            ),
            self._sent("dead", "dead.{tenant}.{class}.{lang}", DEAD, "Jobs that runnerd could not run, with the reason.", self._dead()),
        ]

    def _job(self, name: str, subject: str, stream: str, result: Message, message: Message) -> Operation:
        summaries = {
            "job": "Submit a durable job. The server's PubAck says that it is kept.",
            "job_named": "The same, with the job's id in the subject: it can be found and cancelled while no daemon has seen it.",
            "job_later": "Submit a durable job for a time to come. Needs a server of version 2.12 or later.",
        }
        given = self._operation(name, subject, stream, summaries[name], (message,))
        return replace(given, action="receive", replies=(result,), reply_to=REPLY_TO)

    def _sent(self, name: str, subject: str, stream: str, summary: str, *messages: Message) -> Operation:
        return self._operation(name, subject, stream, summary, messages)

    def _operation(self, name: str, subject: str, stream: str, summary: str, messages: tuple[Message, ...]) -> Operation:
        address = f"{self._nats.prefix}.{subject}"
        return Operation(
            name=name,
            action="send",
            address=address,
            summary=summary,
            parameters={token: parameter for token, parameter in self._parameters.items() if f"{{{token}}}" in address},
            messages=messages,
            extensions={"x-runnerd-jetstream": self._stream(stream)},
        )

    def _stream(self, what: str) -> dict[str, Any]:
        """What AsyncAPI has no words for."""
        name = self._topology.stream(what)
        config = next(each for each in self._topology.streams() if each["name"] == name)
        consumers = [each.name for each in self._topology.consumers() if each.stream == name]
        domain = self._nats.jetstream.domain
        return {
            "stream": name,
            "subjects": config["subjects"],
            "retention": config["retention"],
            **({"consumers": consumers} if consumers else {}),
            **({"domain": domain} if domain else {}),
            **({"condition": "only where the server has this stream"} if self._nats.jetstream.streams == "auto" and self._nats.url else {}),
        }

    def _part(self) -> Message:
        return Message(name="Part", summary="A part of a job's body: the bytes as they are.", headers={})

    def _durable(self) -> Message:
        return Message(
            name="DurableJob",
            summary="A program to run. It is kept until it has a result, and run once however often it is sent.",
            payload=Job,
            headers=headers.DURABLE,
            correlation=CORRELATION,
            examples=(Example(payload=self._examples.job, headers={"Rd-Job-Id": self._examples.result.id}),),
        )

    def _scheduled(self) -> Message:
        examples = self._examples
        target = f"{self._nats.prefix}.due.{examples.tenant}.{self._parameters['class'].example}.{examples.lang}.{examples.result.id}"
        sent = {"Nats-Schedule": "@at 2030-01-31T12:00:00Z", "Nats-Schedule-Target": target}
        return Message(
            name="ScheduledJob",
            summary="A program to run at a time to come.",
            payload=Job,
            headers=headers.SCHEDULE,
            required=("Nats-Schedule", "Nats-Schedule-Target"),
            correlation=CORRELATION,
            examples=(Example(payload=examples.job, headers=sent),),
        )

    def _dead(self) -> Message:
        return Message(
            name="DeadLetter",
            summary="A job as it was sent, and why it could not be run.",
            payload=Job,
            headers={**headers.DURABLE, **headers.DEAD},
            required=("Rd-Job-Id", "Rd-Dead-Reason"),
            correlation=CORRELATION,
        )
