"""`runnerd sessions`: what is in the stores, for the people who run the daemon."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from .options import ConfigFile, Json, Set

if TYPE_CHECKING:
    from ..job import Stored
    from ..sessions import Session
    from ..workspace import Workspaces

sessions = typer.Typer(no_args_is_help=True, help="Sessions in the stores: list, show, remove.")

Name = Annotated[str, typer.Argument(metavar="[TENANT/]SESSION", help="The session, of tenant `default` where none is named.")]
_PATIENCE_S = 5.0


@sessions.command()
def ls(
    *,
    tenant: Annotated[str, typer.Option("--tenant", help="Only those of this tenant.")] = "",
    entity: Annotated[str, typer.Option("--entity", help="Only those of this entity.")] = "",
    most: Annotated[int, typer.Option("--most", min=1, help="Look at so many at most, those first that expire first.")] = 1000,
    json: Json = False,
    file: ConfigFile = "",
    flags: Set = None,
) -> None:
    """List sessions. A store on disk has to be free: ask a daemon that runs on it over HTTP instead."""
    import asyncio

    async def act() -> "list[Session]":
        async with _workspaces(file, flags or ()) as workspaces:
            return await workspaces.sessions.all(most)

    found = [
        one for one in asyncio.run(act()) if tenant in ("", one.owner.tenant) and entity in ("", one.owner.entity)
    ]  # fmt: skip
    if json:
        _print_json(found)
    else:
        _print(found)


@sessions.command()
def show(name: Name, *, json: Json = False, file: ConfigFile = "", flags: Set = None) -> None:
    """Show one session with its files, which is no use of it."""
    import asyncio

    from ..sessions import Owner

    async def act() -> "Session":
        tenant, session = _parts(name)
        async with _workspaces(file, flags or ()) as workspaces:
            return await workspaces.sessions.look(Owner(tenant=tenant), session)

    found = asyncio.run(act())
    if json:
        _print_json(found)
    else:
        _print_one(found)


@sessions.command()
def rm(names: Annotated[list[str], typer.Argument(metavar="[TENANT/]SESSION…")], *, file: ConfigFile = "", flags: Set = None) -> None:
    """Remove sessions with their files and snapshots."""
    import asyncio

    from ..sessions import Owner

    async def act() -> None:
        async with _workspaces(file, flags or ()) as workspaces:
            for name in names:
                tenant, session = _parts(name)
                await workspaces.sessions.delete(Owner(tenant=tenant), session)
                typer.echo(f"removed {tenant}/{session}")

    asyncio.run(act())


@asynccontextmanager
async def _workspaces(file: str, flags: "list[str] | tuple[()]") -> "AsyncIterator[Workspaces]":
    """Sessions in the stores that the settings name."""
    from ..config import load_config
    from ..liveness import Liveness
    from ..plugins import find_plugins
    from ..record import Records
    from ..workspace import WorkspaceSettings, open_workspaces

    settings = load_config(find_plugins(), file=file, flags=flags).settings
    workspace = WorkspaceSettings(sessions=settings.sessions, files=settings.files, state=settings.state)
    async with settings.store.kv.open_kv() as kv, settings.store.blob.open_blobs() as blobs:
        life = Liveness(kv, settings.scheduler.lease_s)
        records = Records(
            kv, by=life.by, result_ttl_s=settings.scheduler.result_ttl_s, patience_s=_PATIENCE_S, most_owed=0, alive=life.alive
        )
        async with open_workspaces(records, blobs, settings.limits, workspace) as workspaces:
            yield workspaces


def _parts(name: str) -> tuple[str, str]:
    from ..arrival import TENANT

    tenant, _, session = name.rpartition("/")
    return tenant or TENANT, session


def _print_json(found: object) -> None:
    import msgspec

    typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2))


def _print(found: "list[Session]") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("session", "entity", "user", "files", "bytes", "state", "used", "expires", "job", box=None, header_style="bold")
    for one in found:
        state = f"{one.snapshot.size}{' archived' if one.snapshot.archived else ''}" if one.snapshot else "-"
        size = sum(file.size for file in (*one.files, *one.older))
        table.add_row(
            f"{one.owner.tenant}/{one.id}",
            one.owner.entity,
            one.owner.user,
            str(len(one.files)),
            str(size),
            state,
            _when(one.used),
            _when(one.expires),
            one.job,
        )
    Console(soft_wrap=True).print(table)


def _print_one(one: "Session") -> None:
    state = one.snapshot
    for label, value in (
        ("session", f"{one.owner.tenant}/{one.id}"),
        ("entity", one.owner.entity),
        ("user", one.owner.user),
        ("created", _when(one.created)),
        ("used", _when(one.used)),
        ("expires", _when(one.expires)),
        ("job", one.job),
        ("state", f"{state.size} bytes, {'archived, ' if state.archived else ''}kept until {_when(state.expires)}" if state else ""),
    ):
        typer.echo(f"{label:8} {value or '-'}")
    for file in one.files:
        typer.echo(f"file     {_line(file)}")
    for file in one.older:
        typer.echo(f"former   {_line(file)}")


def _line(file: "Stored") -> str:
    return f"{file.id}  {file.size:>12}  {_when(file.created)}  {file.content_type}  {file.name}"


def _when(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
