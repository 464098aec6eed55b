"""The headers of messages, in words and JSON Schema: those that are read, and those that are written. All values are text."""

from collections.abc import Mapping
from typing import Any

from runnerd import JSON, MSGPACK, TOKEN

Headers = Mapping[str, Mapping[str, Any]]

_NAME = f"^{TOKEN.pattern}$"
_NUMBER = r"^[0-9]+(\.[0-9]+)?$"


def text(meaning: str, **schema: Any) -> Mapping[str, Any]:
    """A header of any text, but for what `schema` says further."""
    return {"type": "string", "description": meaning, **schema}


def number(meaning: str) -> Mapping[str, Any]:
    """A header that is a number, in digits."""
    return text(meaning, pattern=_NUMBER)


_BOTH: Headers = {
    "Rd-Correlation-Id": text("Whatever tells the request; every answer has it.", maxLength=512),
    "traceparent": text("W3C trace context; every answer has it.", maxLength=2048),
    "tracestate": text("W3C trace context; every answer has it.", maxLength=2048),
    "baggage": text("W3C trace context; every answer has it.", maxLength=2048),
}
_TYPE = text("The type of the body.", enum=[JSON, MSGPACK])

QUESTION: Headers = {
    "Accept": text("The types in which the answer may be, the first that is known. Without it the answer has the type of the body."),
    **_BOTH,
}
_JOB: Headers = {
    "Rd-Job-Id": text("The job's id, for who may send it again: the same id runs once, and has the same result each time.", pattern=_NAME),
    "Nats-Msg-Id": text("Stands for `Rd-Job-Id` where there is none.", pattern=_NAME),
    "Content-Type": _TYPE,
    "Content-Encoding": text("How the body is compressed.", enum=["gzip", "zstd"]),
    **QUESTION,
    "Rd-Timeout-Ms": number("Wall time of each stage in milliseconds; the daemon's own limit holds as well."),
    "Rd-Queue-Ttl-Ms": number("How long the job may wait for a sandbox, in milliseconds; then it ends as `expired`."),
    "Rd-Retry-On": text("Statuses with which the job is started again, with commas, as `retry_on` in its body.", examples=["timeout,oom"]),
    "Rd-Stream-To": text("Output is sent while the job runs, to `.status`, `.out` and `.err` below this subject. It has to be allowed."),
}
RUN: Headers = {
    **_JOB,
    "Rd-Stream": text("Output is sent to the reply subject while the job runs; an empty message is the last of all.", enum=["reply"]),
}
DURABLE: Headers = {
    **_JOB,
    "Rd-Reply-To": text("Where the result goes besides the stream of results. It has to be an allowed subject."),
    "reply_to": text("Stands for `Rd-Reply-To` where there is none."),
    "Rd-Output": text(
        "`events`: output is published, and stored, while the job runs; `durable`: each piece once the server has the one before; "
        "`none`: not even the result has it.",
        enum=["inline", "events", "durable", "none"],
    ),
    "Rd-Parts": number("How many parts of a larger body were stored ahead, under the job's id; this message's own is empty."),
    "Rd-Body-Bytes": number("Size of the body that comes in parts."),
    "Rd-Body-Sha256": text("SHA-256 of the body that comes in parts, in hex; checked where it is given.", pattern="^[0-9a-fA-F]{64}$"),
    "Rd-Deadline": text("The job ends as `expired` if it has no sandbox by this time.", format="date-time"),
    "Rd-Replay-Of": text("The id of the dead letter that is submitted again by this message."),
    "Rd-Result-Ttl": text(
        "How long the result stays in the stream: seconds, or a number that ends in s, m or h.", pattern=r"^[1-9]\d{0,7}[smh]?$"
    ),
}
SCHEDULE: Headers = {
    **DURABLE,
    "Nats-Schedule": text("When: `@at` and a time, RFC 3339.", pattern="^@at "),
    "Nats-Schedule-Target": text("The job's subject, with `due` in place of `job`; of the same tenant."),
}
TOOL: Headers = {**QUESTION, "Rd-Failed": text("Of any value: the tool failed, and the body says why.")}
STDIN: Headers = {**QUESTION, "Rd-Eof": text("Of any value: standard input ends with this piece.")}

_ANSWER: Headers = {
    "Content-Type": _TYPE,
    "Rd-Kind": text("What the message is."),
    "Rd-Job-Id": text("The job's id."),
    **_BOTH,
}
_ERROR: Headers = {
    "Nats-Service-Error": text("Why, in one line: an error of the service, never of the program."),
    "Nats-Service-Error-Code": text(
        "400 rejected, 404 not known, 409 not now, 413 too large, 499 cancelled, 500 defect, 503 no room, 504 expired."
    ),
}
_SEQ = number("Which of the job's messages this is, from 1. A gap is what a slow consumer could not take.")
RESULT: Headers = {
    **_ANSWER,
    "Rd-Status": text("How the job ended, as in the body."),
    "Rd-Exit-Code": text("The program's exit code, where it exited."),
    "Rd-Attempt": number("How often the job was started."),
    "Rd-Worker": text("Host and process of the daemon."),
    "Rd-Duration-Ms": number("From the message's arrival to its answer, in milliseconds."),
    "Rd-Seq": _SEQ,
    "Rd-Dropped": number("Messages of output that were lost; the result has all output."),
    **_ERROR,
}
STORED_ONLY: Headers = {
    "Nats-Msg-Id": text("`<tenant>.<job>.<status>`"),
    "Nats-TTL": text("`Rd-Result-Ttl` of the job."),
}
EVENT: Headers = {**_ANSWER, "Rd-Seq": _SEQ}
STATE: Headers = {**_ANSWER, "Rd-Status": text("`queued`, `running` or `scheduled`, as in the body.")}
DATA: Headers = _ANSWER
REFUSED: Headers = {**_ANSWER, **_ERROR, "Rd-Retry-After-Ms": number("When to try again, in milliseconds.")}
DEAD: Headers = {
    "Rd-Job-Id": text("The job's id."),
    "Rd-Dead-Reason": text("Why it could not be run."),
    "Rd-Attempts": number("How often it was started."),
    "Rd-Subject": text("Where it was sent."),
    "Rd-Stream-Seq": number("Its number in the stream of jobs."),
    "Rd-Left-Out": text("What of the job was left out, and why."),
}
