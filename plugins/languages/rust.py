"""Rust, by rustc: the standard library."""

from runnerd import Install, Language, hookimpl


@hookimpl
def register_languages() -> list[Language]:
    """The language, as data."""
    return [
        Language(
            code="rs",
            name="Rust",
            aliases=("rust",),
            suffixes=(".rs",),
            filename="main.rs",
            compile=("rustc", "--edition", "2021", "-O", "--crate-name", "main", "-o", "{tmp}/main", "{file}"),
            run=("{tmp}/main",),
            image="rust",
            wall_multiplier=3.0,
            memory_multiplier=1.5,
            version=("rustc", "--version"),
            install=Install(debian=("rustc",)),
            hello='fn main() {\n    println!("hi");\n}\n',
        )
    ]
