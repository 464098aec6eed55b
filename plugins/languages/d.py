"""D, by LDC. Not optimised: that takes three times as long to compile, even for a program of one line."""

from runnerd import Install, Language, hookimpl


@hookimpl
def register_languages() -> list[Language]:
    """The language, as data."""
    return [
        Language(
            code="d",
            name="D",
            aliases=("dlang",),
            suffixes=(".d",),
            filename="main.d",
            compile=("ldc2", "-i", "-od={tmp}", "-of={tmp}/main", "{file}"),
            run=("{tmp}/main",),
            paths=("/etc/ldc2.conf",),
            image="d",
            wall_multiplier=2.0,
            memory_multiplier=1.2,
            version=("ldc2", "--version"),
            install=Install(debian=("ldc", "gcc", "libc6-dev")),
            hello='import std.stdio;\n\nvoid main()\n{\n    writeln("hi");\n}\n',
        )
    ]
