"""What daemons answer instead of a result, and checks that all buses have in common."""

import msgspec
from msgspec import Struct

from ..codec import MSGPACK
from ..errors import Conflict, OverLimit, Rejected, RunnerdError, Saturated
from ..job import TOKEN, Job


class Refused(Struct, frozen=True, kw_only=True):
    """The body of an answer that is no result."""

    error: str = "refused without a reason"
    code: int = 500
    retry_after_ms: float | None = None

    def problem(self) -> RunnerdError:
        """What a daemon says instead of an answer: Saturated where trying again may help."""
        if self.code == 503:
            return Saturated(self.error, (self.retry_after_ms or 0.0) / 1000)
        return _ERRORS.get(self.code, RunnerdError)(self.error)


_ERRORS: dict[int, type[RunnerdError]] = {400: Rejected, 409: Conflict, 413: OverLimit}


def read_refused(body: bytes, content_type: str) -> Refused:
    """What is no refusal is one without a reason."""
    try:
        if content_type == MSGPACK:
            return msgspec.msgpack.decode(body, type=Refused)
        return msgspec.json.decode(body, type=Refused)
    except msgspec.DecodeError:
        return Refused()


def job_problem(job: Job, body: bytes, most: int) -> str:
    """Why no bus can carry the job, empty where it can; `most` is the most bytes of a body."""
    for field, token in (("lang", job.lang), ("tenant", job.tenant), ("id", job.id)):
        if not TOKEN.fullmatch(token):
            return f"{field}: {token[:80]!r} must match [A-Za-z0-9_-]{{1,64}}"
    if len(body) > most:
        return f"the job has {len(body)} bytes, and at most {most} go into a message of this bus: send less code, input or files"
    return ""
