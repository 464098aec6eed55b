"""C, by gcc."""

from runnerd import Install, Language, hookimpl


@hookimpl
def register_languages() -> list[Language]:
    """The language, as data."""
    return [
        Language(
            code="c",
            name="C",
            aliases=("gcc",),
            suffixes=(".c",),
            filename="main.c",
            compile=("gcc", "-std=gnu17", "-O2", "-pthread", "-o", "{tmp}/main", "{file}", "-lm"),
            run=("{tmp}/main",),
            image="c-cpp",
            wall_multiplier=1.5,
            version=("gcc", "--version"),
            install=Install(debian=("gcc", "libc6-dev")),
            hello='#include <stdio.h>\n\nint main(void) { puts("hi"); }\n',
        )
    ]
