"""What of a result outgrows a bus's message, put where its submitter can fetch it."""

from collections.abc import AsyncIterator, Callable

from msgspec.structs import replace

from .errors import OverLimit, Rejected
from .job import Result, Skipped, Stored
from .sessions import Owner, Sessions

_HEAD = 4096
"""Characters of an output that the result keeps where the whole of it is stored."""


async def spill_result(result: Result, fits: Callable[[Result], bool], sessions: Sessions) -> Result:
    """`result` with its files, and if that is not enough its outputs as well, moved into a new session of its tenant.

    What was moved is in `Result.stored`; an output is there under the name of its stream. What a session does not take is told
    in `skipped`. The result may still be too large for other reasons. Raises StoreError, and OverLimit where no session can be made.
    """
    if fits(result):
        return result
    owner = Owner(tenant=result.tenant)
    session = (await sessions.create(owner)).id
    stored: list[Stored] = list(result.stored)
    skipped: list[Skipped] = list(result.skipped)

    async def move(name: str, content: bytes) -> None:
        try:
            stored.append(await sessions.upload(owner, session, name, _one(content)))
        except (OverLimit, Rejected) as error:
            skipped.append(Skipped(name=name, reason=str(error)))

    for file in result.files:
        await move(file.name, file.content)
    result = replace(result, files=(), stored=tuple(stored), skipped=tuple(skipped))
    if not fits(result):
        for stream in ("stdout", "stderr"):
            text, data = getattr(result, stream), getattr(result, f"{stream}_bytes")
            if len(text) > _HEAD:
                await move(stream, text.encode() if data is None else data)
                result = replace(result, **{stream: text[:_HEAD], f"{stream}_bytes": None, f"{stream}_truncated": True})
        result = replace(result, stored=tuple(stored), skipped=tuple(skipped))
    told = f"the result is larger than a message of this bus: the rest of it is in session {session}"
    return replace(result, warnings=(*result.warnings, told))


async def _one(content: bytes) -> AsyncIterator[bytes]:
    yield content
