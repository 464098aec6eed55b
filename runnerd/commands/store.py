"""`runnerd store`: whether both stores do what they promise, and how fast."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import typer

from .options import ConfigFile, Json, Set

if TYPE_CHECKING:
    from ..store import Blobs, KeyValues

store = typer.Typer(no_args_is_help=True, help="The stores: keys and values, and blobs.")

_CONTENT = b"0123456789" * 1000


@store.callback()
def _group() -> None:
    """Keep `check` a command of its own while it is the only one."""


@store.command()
def check(*, json: Json = False, file: ConfigFile = "", flags: Set = None) -> None:
    """Write, read, compare and set, and remove in both stores; tells how long each took. Exits with 1 where one fails.

    A store on disk has to be free: stop the daemon that runs on it first.
    """
    import asyncio

    import msgspec

    findings = asyncio.run(_look(file, flags or ()))
    if json:
        typer.echo(msgspec.json.format(msgspec.json.encode(findings), indent=2))
    else:
        for finding in findings:
            shown = f"{finding['ms']:8.2f} ms" if not finding["problem"] else f"problem: {finding['problem']}"
            typer.echo(f"{finding['store']:11} {finding['step']:16} {shown}")
    if any(finding["problem"] for finding in findings):
        raise typer.Exit(1)


async def _look(file: str, flags: "list[str] | tuple[()]") -> list[dict[str, Any]]:
    from ..config import load_config
    from ..job import new_id
    from ..plugins import find_plugins

    settings = load_config(find_plugins(), file=file, flags=flags).settings.store
    key = f"check/{new_id()}"
    return [
        *await _steps("store.kv", settings.kv.open_kv(), lambda kv: _of_kv(kv, key)),
        *await _steps("store.blob", settings.blob.open_blobs(), lambda blobs: _of_blobs(blobs, key)),
    ]


async def _steps(name: str, opening: Any, steps: Callable[[Any], AsyncIterator[tuple[str, Callable[[], Awaitable[bool]]]]]) -> Any:
    """Do step after step; the first that fails is the last."""
    from ..errors import RunnerdError

    findings = []
    step, begun = "open", time.perf_counter()
    try:
        async with opening as it:
            findings.append(_finding(name, step, begun))
            async for step, act in steps(it):
                begun = time.perf_counter()
                right = await act()
                findings.append(_finding(name, step, begun, "" if right else "it answered something else than was written"))
                if not right:
                    break
    except (RunnerdError, KeyError) as error:
        findings.append(_finding(name, step, begun, str(error)))
    return findings


def _finding(name: str, step: str, begun: float, problem: str = "") -> dict[str, Any]:
    return {"store": name, "step": step, "ms": round((time.perf_counter() - begun) * 1000, 3), "problem": problem}


async def _of_kv(kv: "KeyValues", key: str) -> "AsyncIterator[tuple[str, Callable[[], Awaitable[bool]]]]":
    revision = ""

    async def write() -> bool:
        nonlocal revision
        written, _, revision = await kv.put_if_absent(key, b"one", 60.0)
        return written

    async def read() -> bool:
        return await kv.get(key) == (b"one", revision)

    async def compare_and_set() -> bool:
        stale = revision
        return await kv.compare_and_set(key, revision, b"two", 60.0) is not None and (
            await kv.compare_and_set(key, stale, b"three", 60.0) is None
        )

    async def rank() -> bool:
        await kv.rank("check/ranking", key, 1.0)
        found = (key, 1.0) in await kv.ranked("check/ranking")
        await kv.unrank("check/ranking", key)
        return found

    async def delete() -> bool:
        return await kv.delete(key) and await kv.get(key) is None

    for step in (write, read, compare_and_set, rank, delete):
        yield step.__name__.replace("_", " "), step


async def _of_blobs(blobs: "Blobs", key: str) -> "AsyncIterator[tuple[str, Callable[[], Awaitable[bool]]]]":
    async def content() -> AsyncIterator[bytes]:
        yield _CONTENT

    async def write() -> bool:
        return (await blobs.put(key, content(), "text/plain")).size == len(_CONTENT)

    async def read() -> bool:
        return b"".join([chunk async for chunk in blobs.get(key)]) == _CONTENT

    async def read_range() -> bool:
        return b"".join([chunk async for chunk in blobs.get(key, 5, 15)]) == _CONTENT[5:15]

    async def list_() -> bool:
        return [blob.key for blob in await blobs.list(key)] == [key]

    async def delete() -> bool:
        await blobs.delete(key)
        return await blobs.info(key) is None

    for step in (write, read, read_range, list_, delete):
        yield step.__name__.strip("_").replace("_", " "), step
