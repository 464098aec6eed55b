"""`runnerd asyncapi`: the addresses and messages of a daemon, for programs that read such documents."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import ConfigFile, Set

if TYPE_CHECKING:
    from collections.abc import Mapping

_YAML = (".yaml", ".yml")


def asyncapi(
    *,
    file: ConfigFile = "",
    flags: Set = None,
    yaml: Annotated[
        bool | None,
        typer.Option("--yaml/--json", help="In which form. Default: as the name after --out says, else JSON.", show_default=False),
    ] = None,
    out: Annotated[
        str, typer.Option("--out", "-o", metavar="FILE", help="Write to this file instead of the screen.", show_default=False)
    ] = "",
) -> None:
    """Describe every subject, exchange and path of this configuration, with its messages: an AsyncAPI 3.0 document.

    Nothing is opened or asked. A running daemon gives its own: on NATS at rd.v1.info.asyncapi, over HTTP at /asyncapi.json.

    Examples:

      runnerd asyncapi --yaml

      runnerd asyncapi --config production.toml --out asyncapi.json
    """
    from ..asyncapi import document
    from ..config import load_config
    from ..daemon import effective_languages
    from ..plugins import find_plugins

    plugins = find_plugins()
    settings = load_config(plugins, file=file, flags=flags or ()).settings
    languages = effective_languages(settings, plugins)
    found = {kind: said for kind, ingress in settings.ingress.items() if (said := ingress.describe(languages, "")) is not None}
    for kind in sorted(settings.ingress.keys() - found.keys()):
        typer.echo(f"{kind}: does not describe itself, and is left out", err=True)
    text = _text(document(found), yaml=out.endswith(_YAML) if yaml is None else yaml)
    if out:
        _write(Path(out), text)
        typer.echo(f"{out}: {', '.join(found) or 'nothing'} described")
    else:
        typer.echo(text, nl=False)


def _text(document: "Mapping[str, Any]", *, yaml: bool) -> str:
    import msgspec

    if yaml:
        return msgspec.yaml.encode(document).decode()
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"


def _write(path: Path, text: str) -> None:
    from ..errors import RunnerdError

    try:
        path.write_text(text)
    except OSError as error:
        raise RunnerdError(f"--out {path}: can't be written: {error.strerror}") from None
