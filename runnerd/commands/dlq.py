"""`runnerd dlq`: jobs that runnerd could not run, with the reason; to be looked at, and run again."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from .options import ConfigFile, Json, Set

if TYPE_CHECKING:
    from ..letters import DeadLetter, DeadLetters

    Buses = dict[str, DeadLetters]

T = TypeVar("T")

dlq = typer.Typer(no_args_is_help=True, help="Jobs that runnerd could not run (`dead`), with the reason: list, show, run again.")

Letter = Annotated[str, typer.Argument(metavar="LETTER", help="As `runnerd dlq ls` shows it: nats/12.")]
Most = Annotated[int, typer.Option("--most", "-n", min=1, help="Show so many at most.")]


@dlq.command()
def ls(*, most: Most = 100, file: ConfigFile = "", flags: Set = None, json: Json = False) -> None:
    """List dead letters, the oldest first."""

    async def listed(buses: "Buses") -> list[tuple[str, "DeadLetter"]]:
        found: list[tuple[str, DeadLetter]] = []
        for kind, letters in buses.items():
            async for letter in letters.all():
                if len(found) == most:
                    return found
                found.append((f"{kind}/{letter.number}", letter))
        return found

    found = _with_buses(listed, file, flags)
    if json:
        typer.echo(_json([{"letter": name, **_fields(letter)} for name, letter in found]))
        return
    for name, letter in found:
        typer.echo(f"{name}  {letter.died[:19]}  {letter.tenant}  {letter.lang}  {letter.job_id}  {letter.starts} starts  {letter.reason}")


@dlq.command()
def show(letter: Letter, *, file: ConfigFile = "", flags: Set = None, json: Json = False) -> None:
    """Show one dead letter: its headers and the job."""
    _, found = _with_buses(lambda buses: _find(buses, letter), file, flags)
    fields = {**_fields(found), "headers": dict(found.headers)}
    if json:
        typer.echo(_json({"letter": letter, **fields, "job": _job(found)}))
        return
    for name, value in fields.items():
        typer.echo(f"{name}: {value}")
    typer.echo(_json(_job(found)))


@dlq.command()
def replay(
    letters: Annotated[list[str], typer.Argument(metavar="LETTER...", help="As `runnerd dlq ls` shows them.")],
    *,
    file: ConfigFile = "",
    flags: Set = None,
) -> None:
    """Submit the jobs of dead letters again, each under an id of its own, and remove the letters.

    The old id keeps its result, `dead`.
    """

    async def replayed(buses: "Buses") -> None:
        for name in letters:
            kind, letter = await _find(buses, name)
            job_id, body = _again(letter)
            await buses[kind].replay(letter, job_id, body)
            typer.echo(f"{name}: submitted as {job_id}")

    _with_buses(replayed, file, flags)


async def _find(buses: "Buses", name: str) -> tuple[str, "DeadLetter"]:
    """A letter by the name that `ls` shows. Raises RunnerdError."""
    from ..errors import RunnerdError

    kind, _, number = name.partition("/")
    letter = await buses[kind].get(number) if kind in buses else None
    if letter is None:
        raise RunnerdError(f"{name}: there is no such dead letter: `runnerd dlq ls` lists them")
    return kind, letter


def _again(letter: "DeadLetter") -> tuple[str, bytes]:
    """A new id, and the job under it as it was sent, not compressed. Raises Rejected."""
    import msgspec

    from ..codec import decode_job, encode
    from ..encoding import decompressed
    from ..errors import Rejected
    from ..job import new_id

    if not letter.body:
        raise Rejected(f"{letter.number}: the letter has no body: the job was too large to be kept")
    job = decode_job(decompressed(letter.body, letter.content_encoding, _LARGEST_BYTES), letter.content_type)
    job_id = new_id()
    return job_id, encode(msgspec.structs.replace(job, id=job_id), letter.content_type)


def _job(letter: "DeadLetter") -> object:
    """The job for people, or why it can't be shown."""
    from ..codec import decode_job
    from ..encoding import decompressed
    from ..errors import Rejected

    try:
        return decode_job(decompressed(letter.body, letter.content_encoding, _LARGEST_BYTES), letter.content_type)
    except Rejected as error:
        return str(error)


_LARGEST_BYTES = 1 << 30


def _fields(letter: "DeadLetter") -> dict[str, object]:
    names = ("job_id", "tenant", "lang", "reason", "starts", "died", "address")
    return {name: getattr(letter, name) for name in names}


def _json(value: object) -> str:
    import msgspec

    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _with_buses(act: "Callable[[Buses], Awaitable[T]]", file: str, flags: list[str] | None) -> T:
    """Do something with the dead letters of all buses that keep some."""
    import asyncio

    from ..log import LogSettings, open_log

    async def done() -> T:
        async with _buses(file, flags or []) as buses:
            return await act(buses)

    with open_log(LogSettings(level="error", format="text")):
        return asyncio.run(done())


@asynccontextmanager
async def _buses(file: str, flags: list[str]) -> AsyncIterator["Buses"]:
    from contextlib import AsyncExitStack

    from ..config import load_config
    from ..plugins import find_plugins

    ingresses = load_config(find_plugins(), file=file, flags=flags).settings.ingress
    async with AsyncExitStack() as stack:
        opened = {kind: letters for kind, ingress in ingresses.items() if (letters := ingress.dead_letters()) is not None}
        yield {kind: await stack.enter_async_context(letters) for kind, letters in opened.items()}
