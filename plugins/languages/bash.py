"""Bash and the usual tools of the system."""

from runnerd import Install, Language, hookimpl


@hookimpl
def register_languages() -> list[Language]:
    """The language, as data."""
    return [
        Language(
            code="bash",
            name="Bash",
            aliases=("sh", "shell"),
            suffixes=(".sh", ".bash"),
            filename="main.sh",
            run=("bash", "{file}"),
            image="bash",
            version=("bash", "--version"),
            install=Install(debian=("bash",)),
            hello="echo hi\n",
        )
    ]
