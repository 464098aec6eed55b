"""Messages as they may be sent, for descriptions: one job, and what comes of it."""

from collections.abc import Mapping

from msgspec import Struct

from .job import Job, Output, Result, Started, ToolCall
from .spec import Language

ID = "example-1"
"""The job's id."""


class Examples(Struct, frozen=True, kw_only=True):
    """A job that prints `hi`, its events and its result."""

    tenant: str
    lang: str
    job: Job
    started: Started
    output: Output
    call: ToolCall
    """As another job would make it, one that names the tool."""
    result: Result


def examples_of(languages: Mapping[str, Language], tenant: str = "default") -> Examples:
    """In the language of which most sandboxes are kept warm."""
    language = min(languages.values(), key=lambda each: (-each.warm, each.code), default=None)
    lang, code = (language.code, language.hello) if language else ("py", "print('hi')")
    return Examples(
        tenant=tenant,
        lang=lang,
        job=Job(code=code),
        started=Started(id=ID, stage="run"),
        output=Output(id=ID, stream="stdout", seq=1, text="hi\n"),
        call=ToolCall(id=ID, tenant=tenant, call="1", name="weather", arguments='{"city": "Oslo"}'),
        result=Result(id=ID, tenant=tenant, lang=lang, status="ok", stage="run", exit_code=0, stdout="hi\n", starts=1),
    )
