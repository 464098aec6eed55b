"""`runnerd check`: whether the daemon would run here, and what it would do otherwise than people may think."""

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import TYPE_CHECKING

import typer

from .finding import Finding
from .options import ConfigFile, Json, Set

if TYPE_CHECKING:
    from ..config import Config, Settings
    from ..plugins import Plugins
    from ..spec import Language
    from ..store import Store

PROBE = "check/probe"


def check(*, file: ConfigFile = "", flags: Set = None, json: Json = False) -> None:
    """Check settings, plugins, sandboxes, tool chains, ports and stores, without taking a job.

    Exits with 2 where a setting is wrong, with 1 for any other problem. Run it while no daemon runs.
    """
    import asyncio

    from ..config import load_config
    from ..errors import ConfigError
    from ..plugins import find_plugins

    plugins = find_plugins()
    findings = [Finding(about="plugins", state="problem", text=f"broken: {broken}") for broken in plugins.broken]
    invalid = False
    try:
        config = load_config(plugins, file=file, flags=flags or ())
    except ConfigError as error:
        invalid = True
        findings += [Finding(about="settings", state="problem", text=problem) for problem in error.problems]
    else:
        findings += asyncio.run(_look(config, plugins))
    _print(findings, json=json)
    if any(finding.state == "problem" for finding in findings):
        raise typer.Exit(2 if invalid else 1)


async def _look(config: "Config", plugins: "Plugins") -> list[Finding]:
    from ..config.conflicts import conflicts
    from ..daemon import effective_languages

    languages = effective_languages(config.settings, plugins)
    notes = [*config.notes, *conflicts(config.settings, languages)]
    return [
        Finding(about="settings", state="ok", text="valid"),
        *(Finding(about="settings", state="note", text=note) for note in notes),
        *[finding async for finding in _stores(config.settings)],
        *_ports(config.settings),
        *[finding async for finding in _sandboxes(config.settings, languages)],
    ]


async def _stores(settings: "Settings") -> AsyncIterator[Finding]:
    """Open both stores, and write, read and remove a value in each."""
    from ..daemon import make_state_dir
    from ..errors import RunnerdError

    kv, blob = settings.store.kv, settings.store.blob
    try:
        make_state_dir(settings.state_dir)
        async with kv.open_kv() as values:
            await values.put(PROBE, b"", ttl_s=60)
            await values.delete(PROBE)
        yield Finding(about="store.kv", state="ok", text=f"{_shown(kv)}: opens and takes values")
    except RunnerdError as error:
        yield Finding(about="store.kv", state="problem", text=str(error))
    try:
        async with blob.open_blobs() as blobs:
            await blobs.put(PROBE, _nothing())
            await blobs.delete(PROBE)
        yield Finding(about="store.blob", state="ok", text=f"{_shown(blob)}: opens and takes blobs")
    except RunnerdError as error:
        yield Finding(about="store.blob", state="problem", text=str(error))


def _shown(store: "Store") -> str:
    """Kind and place."""
    kind, where = store.__struct_config__.tag, store.where()
    return f"{kind} at {where}" if where else str(kind)


async def _nothing() -> AsyncIterator[bytes]:
    yield b""


def _ports(settings: "Settings") -> Iterator[Finding]:
    """Whether what each ingress will listen on is free."""
    from ..errors import IngressError

    for kind, ingress in settings.ingress.items():
        about = f"ingress.{kind}"
        try:
            for host, port in ingress.listens():
                yield _port(about, host, port)
        except IngressError as error:
            yield Finding(about=about, state="problem", text=str(error))


def _port(about: str, host: str, port: int) -> Finding:
    import socket

    try:
        family, type_, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, type_, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        return Finding(about=about, state="problem", text=f"can't listen on {host} port {port}: {error.strerror}")
    return Finding(about=about, state="ok", text=f"{host} port {port} is free" if port else f"{host}, any free port")


async def _sandboxes(settings: "Settings", languages: "Mapping[str, Language]") -> AsyncIterator[Finding]:
    """Where jobs run: how far they are isolated there, and with which tool chains."""
    from ..placing import in_pods

    if in_pods(settings):
        from . import check_pods

        async for finding in check_pods.in_pods(settings, languages):
            yield finding
        return
    async for finding in _isolation(settings, languages):
        yield finding
    async for finding in _tools(languages):
        yield finding


async def _isolation(settings: "Settings", languages: "Mapping[str, Language]") -> AsyncIterator[Finding]:
    """Start an agent, which has to withstand the canary probes, and tell the level that was reached."""
    from ..errors import Rejected, SandboxError
    from ..executors.here import open_here
    from ..isolation import check_level

    try:
        async with open_here(settings.local, 2, languages.values()) as executor:
            level, said = executor.level, executor.description
            reasons, breaches = dict(executor.reasons), dict(executor.breaches)
    except SandboxError as error:
        yield Finding(about="isolation", state="problem", text=str(error))
        return
    try:
        check_level(level, settings.isolation)
    except Rejected as error:
        yield Finding(about="isolation", state="problem", text=str(error))
    else:
        yield Finding(about="isolation", state="ok", text=f"level {level}, which withstands the canary probes")
    for stronger, reason in reasons.items():
        yield Finding(about="isolation", state="note", text=f"level {stronger} is not reached: {reason}")
    for tried, probes in breaches.items():
        yield Finding(about="isolation", state="note", text=f"level {tried} let through: {', '.join(probes)}")
    enforced, missing = said.get("enforced", ()), said.get("missing", ())
    yield Finding(about="isolation", state="ok", text=f"limits enforced: {', '.join(enforced) or 'none'}")
    if missing:
        yield Finding(about="isolation", state="note", text=f"limits that can't be enforced here: {', '.join(missing)}")


async def _tools(languages: "Mapping[str, Language]") -> AsyncIterator[Finding]:
    """Which tool chains are here."""
    from ..toolchains import Toolchains

    for code, found in (await Toolchains().probe(languages.values())).items():
        if found.present:
            yield Finding(about=f"language {code}", state="ok", text=found.version)
        else:
            install = f": install it with `{found.install}`" if found.install else ""
            yield Finding(about=f"language {code}", state="note", text=f"{found.problem}{install}")


def _print(findings: list[Finding], *, json: bool) -> None:
    import msgspec

    if json:
        typer.echo(msgspec.json.format(msgspec.json.encode(findings), indent=2))
        return
    colors = {"ok": typer.colors.GREEN, "note": typer.colors.YELLOW, "problem": typer.colors.RED}
    for finding in findings:
        state = typer.style(f"{finding.state:<8}", fg=colors[finding.state])
        typer.echo(f"{state} {finding.about:<14} {finding.text}")
