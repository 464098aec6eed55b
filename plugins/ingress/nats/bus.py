"""The bus as the parts of this ingress see it: two connections, the subjects, what is counted, the way back."""

from collections.abc import Mapping

from msgspec import Struct
from nats.aio.msg import Msg

from runnerd import Counters

from .connection import Connection
from .reply import Reply
from .subjects import Subjects


class Bus(Struct, frozen=True, kw_only=True):
    """Everything that concerns the server, and nothing that concerns the daemon."""

    main: Connection
    """For jobs, answers and questions."""
    streams: Connection
    """For jobs that stream, with their results: a flood of output delays nobody else's answer."""
    subjects: Subjects
    counters: Counters

    def reply(self, msg: Msg, headers: Mapping[str, str]) -> Reply | None:
        """The way back to who sent `msg`; None, counted, where it may not be taken. `headers` are folded.

        Without a reply subject a result may follow a job's output, to `<Rd-Stream-To>.status`.
        """
        stream_to = headers.get("rd-stream-to", "")
        if not msg.reply and not stream_to:
            self.counters.count("refused_no_reply", subject=msg.subject)
            return None
        if self.forbidden(msg, msg.reply or stream_to):
            return None
        reply = Reply(msg.reply or f"{stream_to}.status", self.main, self.counters, headers)
        reply.many = "rd-stream" in headers and not stream_to
        return reply

    def forbidden(self, msg: Msg, subject: str) -> str:
        """Why nothing may be published on `subject` for `msg`, counted; empty where it may."""
        problem = self.subjects.reply_problem(subject)
        if problem:
            self.counters.count("refused_reply", subject=msg.subject, reply=subject[:100], problem=problem)
        return problem
