"""PHP. Its messages go to standard error, and memory is limited by the sandbox alone."""

from runnerd import Install, Language, hookimpl

SETTINGS = ("-d", "display_errors=stderr", "-d", "log_errors=0", "-d", "html_errors=0", "-d", "memory_limit=-1")


@hookimpl
def register_languages() -> list[Language]:
    """The language, as data."""
    return [
        Language(
            code="php",
            name="PHP",
            suffixes=(".php",),
            filename="main.php",
            run=("php", *SETTINGS, "{file}"),
            paths=("/etc/php",),
            image="php",
            version=("php", "--version"),
            install=Install(debian=("php-cli",)),
            hello='<?php\necho "hi\\n";\n',
        )
    ]
