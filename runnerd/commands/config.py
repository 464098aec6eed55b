"""`runnerd config`: show what holds, write a template, check what was written."""

import typer

from .options import ConfigFile, Json, Set

config = typer.Typer(no_args_is_help=True, help="Show, check and document settings.")


@config.command()
def show(*, file: ConfigFile = "", flags: Set = None, json: Json = False) -> None:
    """Show every setting that holds and where it comes from. Secrets are masked."""
    from ..config import load_config
    from ..config.reference import shown
    from ..plugins import find_plugins

    settings = shown(load_config(find_plugins(), file=file, flags=flags or ()))
    if json:
        import msgspec

        document = {name: {"value": value, "from": place} for name, (value, place) in settings.items()}
        typer.echo(msgspec.json.format(msgspec.json.encode(document), indent=2))
        return
    for name, (value, place) in settings.items():
        typer.echo(f"{name} = {value}" + ("" if place == "default" else f"    # {place}"))


@config.command()
def template() -> None:
    """Print a .env file with every setting, its meaning and its default.

    Example: runnerd config template > .env
    """
    from ..config.reference import template as text
    from ..plugins import find_plugins

    typer.echo(text(find_plugins()), nl=False)


@config.command()
def validate(*, file: ConfigFile = "", flags: Set = None) -> None:
    """Check all settings. Exits with 2 and lists every problem where there is one."""
    from ..config import load_config
    from ..plugins import find_plugins

    for note in load_config(find_plugins(), file=file, flags=flags or ()).notes:
        typer.echo(note)
    typer.echo("The configuration is valid.")


@config.command()
def reference(*, json: Json = False) -> None:
    """Print a table of all settings in Markdown, as the documentation has it."""
    from ..config.reference import markdown
    from ..config.reference import reference as rows
    from ..plugins import find_plugins

    found = rows(find_plugins())
    if json:
        import msgspec

        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2))
    else:
        typer.echo(markdown(found), nl=False)
