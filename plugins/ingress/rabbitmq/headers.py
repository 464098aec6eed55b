"""The properties and headers of messages, in words and JSON Schema: those that are read, and those that are written."""

from collections.abc import Mapping
from typing import Any

from runnerd import JSON, MSGPACK, TOKEN

Headers = Mapping[str, Mapping[str, Any]]

_NAME = f"^{TOKEN.pattern}$"


def text(meaning: str, **schema: Any) -> Mapping[str, Any]:
    """A header of any text, but for what `schema` says further."""
    return {"type": "string", "description": meaning, **schema}


def milliseconds(meaning: str) -> Mapping[str, Any]:
    """A number, or one in digits."""
    return {"type": ["number", "string"], "description": meaning}


_TRACE: Headers = {
    name: text("W3C trace context; every answer has it.", maxLength=2048) for name in ("traceparent", "tracestate", "baggage")
}
_TYPE = text("The type of the body.", enum=[JSON, MSGPACK])
_REPLY_TO = text("The queue that the answer goes to: one of those that are allowed, or amq.rabbitmq.reply-to.")
_CORRELATION = text("Whatever tells the request; every answer has it.")

JOB_PROPERTIES: Headers = {
    "message_id": text("The job's id, for who may send it again: the same id runs once, and has the same result each time.", pattern=_NAME),
    "reply_to": _REPLY_TO,
    "correlation_id": _CORRELATION,
    "content_type": _TYPE,
    "content_encoding": text("How the body is compressed.", enum=["gzip", "zstd"]),
    "expiration": text("How long the job may wait, in milliseconds; the broker then drops it without a result.", pattern="^[0-9]+$"),
}
JOB: Headers = {
    "rd-job-id": text("The job's id, in place of `message_id`.", pattern=_NAME),
    "accept": text("The types in which the answer may be, the first that is known. Without it the answer has the type of the body."),
    "rd-timeout-ms": milliseconds("Wall time of each stage; the daemon's own limit holds as well."),
    "rd-queue-ttl-ms": milliseconds("How long the job may wait for a sandbox; then it ends as `expired`."),
    "rd-retry-on": text("Statuses with which the job is started again, with commas, as `retry_on` in its body.", examples=["timeout,oom"]),
    "rd-output": text(
        "`events`: output is published on the exchange of events while the job runs; `durable`: persistent, each piece once the "
        "broker has confirmed the one before; `none`: not even the result has it.",
        enum=["inline", "events", "durable", "none"],
    ),
    "rd-stream": text("Output is sent to the reply queue while the job runs.", enum=["reply"]),
    "rd-stream-to": text("Output is sent to this queue while the job runs. It has to be allowed."),
    **_TRACE,
}
QUESTION_PROPERTIES: Headers = {"reply_to": _REPLY_TO, "correlation_id": _CORRELATION, "content_type": _TYPE}
QUESTION: Headers = {"accept": JOB["accept"], **_TRACE}
TOOL: Headers = {**QUESTION, "rd-failed": text("Of any value: the tool failed, and the body says why.")}
STDIN: Headers = {**QUESTION, "rd-eof": text("Of any value: standard input ends with this piece.")}

ANSWER_PROPERTIES: Headers = {"correlation_id": _CORRELATION, "content_type": _TYPE, "message_id": text("The message's own.")}
ANSWER: Headers = {"Rd-Kind": text("What the message is."), "Rd-Job-Id": text("The job's id."), **_TRACE}
_ERROR: Headers = {
    "Rd-Error": text("Why, in one line: an error of the service, never of the program."),
    "Rd-Error-Code": {
        "type": "integer",
        "description": "400 rejected, 404 not known, 409 not now, 413 too large, 499 cancelled, 500 defect, 503 no room, 504 expired.",
    },
}
_SEQ = {"type": "integer", "description": "Which of the job's messages this is, from 1. A gap is what a slow consumer could not take."}
RESULT: Headers = {
    **ANSWER,
    "Rd-Status": text("How the job ended, as in the body."),
    "Rd-Exit-Code": {"type": "integer", "description": "The program's exit code, where it exited."},
    "Rd-Duration-Ms": {"type": "number", "description": "From the message's arrival to its answer, in milliseconds."},
    "Rd-Seq": _SEQ,
    "Rd-Dropped": {"type": "integer", "description": "Messages of output that were lost; the result has all output."},
    "Rd-Cut": {"type": "boolean", "description": "The result was too large for a message, and is not whole."},
    **_ERROR,
}
EVENT: Headers = {**ANSWER, "Rd-Seq": _SEQ}
STATE: Headers = {**ANSWER, "Rd-Status": text("`queued` or `running`, as in the body.")}
REFUSED: Headers = {**ANSWER, **_ERROR}
DEAD: Headers = {
    "Rd-Job-Id": text("The job's id."),
    "Rd-Dead-Reason": text("Why it could not be run."),
    "Rd-Attempts": {"type": "integer", "description": "How often it was started."},
    "Rd-Died": text("When.", format="date-time"),
    "Rd-Routing-Key": text("Where it was sent."),
}
