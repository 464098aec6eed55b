"""What a NATS server does not permit: it says so beside the question, which would otherwise wait for an answer that can't come."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ..errors import IngressError

_VIOLATION = re.compile(r'permissions violation for (publish|subscription) to "([^"]+)"', re.IGNORECASE)


class Denied(IngressError):
    """The server does not permit what was asked for: trying again is of no use."""


class _Question:
    """A question on its way, to be ended early."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.denied = ""
        self.timeout = asyncio.timeout(None)

    def end(self, why: str) -> None:
        if not self.denied:
            self.denied = why
            self.timeout.reschedule(asyncio.get_running_loop().time())


class Denials:
    """Questions on their way, and the server's words about them. `inbox` is the prefix of the subjects that answers come to."""

    def __init__(self, inbox: str) -> None:
        self._prefix = inbox
        self._questions: set[_Question] = set()
        self._mute = ""
        """Why no answer can come to us, empty where they can."""

    def hear(self, error: Exception) -> None:
        """An error that the library tells of: end the questions that it is about."""
        found = _VIOLATION.search(str(error))
        if found is None:
            return
        what, subject = found[1].lower(), found[2]
        if what == "subscription" and subject.lower().startswith(f"{self._prefix}.".lower()):
            self._mute = (
                f"the server permits no answers to come to {self._prefix}.…: give the prefix that it permits (inbox_prefix, --inbox)"
            )
        for question in self._questions:
            if self._mute:
                question.end(self._mute)
            elif what == "publish" and subject.lower() == question.subject.lower():  # the library tells it in lower case
                question.end(f"the server does not permit us to publish to {question.subject}")

    @asynccontextmanager
    async def asking(self, subject: str) -> AsyncIterator[None]:
        """Await the answer to a question in this block. Raises Denied."""
        if self._mute:
            raise Denied(self._mute)
        question = _Question(subject)
        self._questions.add(question)
        try:
            async with question.timeout:
                yield
        except TimeoutError:
            if question.denied:
                raise Denied(question.denied) from None
            raise
        finally:
            self._questions.discard(question)
