"""R. Standard input is `file("stdin")`, arguments are `commandArgs(TRUE)`."""

from runnerd import Install, Language, hookimpl


@hookimpl
def register_languages() -> list[Language]:
    """The language, as data."""
    return [
        Language(
            code="r",
            name="R",
            aliases=("rscript",),
            suffixes=(".R", ".r"),
            filename="main.R",
            run=("Rscript", "--vanilla", "{file}"),
            paths=("/etc/R",),
            image="r",
            wall_multiplier=1.5,
            memory_multiplier=1.2,
            version=("Rscript", "--version"),
            install=Install(debian=("r-base-core",)),
            hello='cat("hi\\n")\n',
        )
    ]
